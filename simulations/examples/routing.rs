//! Time to first byte under each strategy beside the omniscient one's.
//! `cargo run --release -p hansa-sim --example routing -- [SEEDS] [SECONDS] [STRATEGIES] [LOADS]`

#![allow(clippy::print_stdout)] // Read by people.

use std::time::{Duration, Instant};

use hansa_sim::jobs::play::play;
use hansa_sim::jobs::setup::yardstick;
use hansa_sim::jobs::strategy::named;
use hansa_sim::jobs::views::Fixed;

const ALL: &str = "omniscient,random,weighted-random,round-robin,stale-two-choices,\
                   stale-least-loaded,hansa-unasked,hansa-4,hansa-6,hansa-8";

fn main() {
    let mut args = std::env::args().skip(1);
    let seeds: u64 = args.next().map_or(5, |text| text.parse().expect("a number of seeds"));
    let seconds = args.next().map_or(240, |text| text.parse().expect("seconds"));
    let strategies = args.next().unwrap_or_else(|| ALL.into());
    let loads = args.next().unwrap_or_else(|| "0.85,0.95".into());
    for rho in loads.split(',').map(|rho| rho.parse().expect("a load")) {
        let mut bounds = Vec::new();
        for name in strategies.split(',') {
            let (mut p50, mut p99s, mut worst, mut jobs) = (0.0, 0.0, 0.0f64, 0);
            let (mut asked, mut cross, mut faults) = (0.0, 0.0, 0);
            let mut ratios = 0.0;
            let began = Instant::now();
            for seed in 1..=seeds {
                let setup = yardstick(seed, 512, rho, Duration::from_secs(seconds));
                let mesh = Fixed::new(&setup);
                let figures = play(&setup, &mesh, named(name).expect("a strategy"));
                let p99 = figures.ttft_at(0.99).as_secs_f64() * 1e3;
                if name == "omniscient" {
                    bounds.push(p99);
                }
                let index = usize::try_from(seed - 1).expect("small");
                let ratio = bounds.get(index).map_or(f64::NAN, |bound| p99 / bound);
                ratios += ratio / seeds as f64;
                worst = worst.max(ratio);
                p50 += figures.ttft_at(0.5).as_secs_f64() * 1e3 / seeds as f64;
                p99s += p99 / seeds as f64;
                asked += figures.questions as f64 / setup.arrivals.len() as f64 / seeds as f64;
                cross += figures.cross as f64 / figures.sends as f64 / seeds as f64;
                faults += figures.checkers.faults;
                jobs += setup.arrivals.len();
                if let Some(first) = figures.checkers.first {
                    println!("seed {seed}: {first}");
                }
            }
            let pace = jobs as f64 / began.elapsed().as_secs_f64();
            println!(
                "{rho:.2} {name:<20} p50 {p50:>6.0} p99 {p99s:>7.0} ms  ratio {ratios:>5.2} \
                 (worst {worst:>5.2})  asked {asked:.1}  cross {:>3.0} %  faults {faults}  \
                 {jobs} jobs, {pace:.0}/s",
                cross * 100.0
            );
        }
    }
}
