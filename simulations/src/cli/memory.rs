//! The memory that large worlds live in.

/// Starts this program anew with huge pages, unless it was, or whoever started it set tunables.
///
/// The memory of a large world is touched in no order, and looking up small pages would take about
/// a third of its time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn with_huge_pages() {
    use std::os::unix::process::CommandExt;

    /// How glibc is told to ask the kernel for them. It listens only before a program starts.
    const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

    if std::env::var_os(TUNABLES.0).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut again = std::process::Command::new(program);
        // Only comes back when it cannot: then small pages will do.
        let _ = again.args(std::env::args_os().skip(1)).env(TUNABLES.0, TUNABLES.1).exec();
    }
}

/// Other systems decide for themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn with_huge_pages() {}
