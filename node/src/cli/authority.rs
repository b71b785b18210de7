use clap::Subcommand;
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {}
pub fn run(c: &AuthorityCommand) -> anyhow::Result<()> {
    match *c {}
}
