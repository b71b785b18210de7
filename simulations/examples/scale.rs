use hansa_core::directory::Params;
use hansa_sim::links::Quality;
use hansa_sim::world::World;
use std::time::Duration;
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines()
        .find(|l| l.starts_with("VmHWM"))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}
fn main() {
    let arg = |i: usize, d: f64| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(d);
    let n = arg(1, 10_000.0) as usize;
    let secs = arg(2, 30.0) as u64;
    let kill = arg(3, 0.0);
    let loss = arg(4, 0.0);
    let warm = arg(5, 10.0) as u64;
    let ms = Duration::from_millis;
    let mut params = Params::default();
    if let Ok(v) = std::env::var("LF") {
        params.lazy_fanout = v.parse().unwrap()
    }
    if let Ok(v) = std::env::var("LR") {
        params.lazy_rounds = v.parse().unwrap()
    }
    if let Ok(v) = std::env::var("LI") {
        params.lazy_interval = ms(v.parse().unwrap())
    }
    if let Ok(v) = std::env::var("RF") {
        params.advert_refresh = Duration::from_secs(v.parse().unwrap())
    }
    if let Ok(v) = std::env::var("EH") {
        params.eager_hops_max = v.parse().unwrap()
    }
    let mut w =
        World::new(1, n, Quality { latency: (ms(20), ms(100)), jitter: ms(2), loss }, params);
    w.forget_observations();
    w.follow(false);
    let t = std::time::Instant::now();
    w.start_settled();
    println!("settled {:?} rss {} MB", t.elapsed(), rss());
    let t = std::time::Instant::now();
    w.run_for(Duration::from_secs(warm));
    println!("warm {warm}s {:?} rss {}", t.elapsed(), rss());
    let before = w.traffic();
    w.follow(true);
    let t = std::time::Instant::now();
    if kill > 0.0 {
        for i in 0..(n as f64 * kill) as usize {
            w.kill(i * (1.0 / kill) as usize + 3);
        }
    }
    w.run_for(Duration::from_secs(secs));
    let tr = w.traffic() - before;
    w.follow(false);
    let el = t.elapsed();
    w.run_for(Duration::from_secs(8));
    let l = w.ledger();
    let (wanted, taken) = l.delivered();
    let q = |s: f64| l.dissemination.quantile(s, wanted);
    println!("{secs}s in {el:?} => {:.2} vs/s rss {}", secs as f64 / el.as_secs_f64(), rss());
    println!(
        "wanted {wanted} taken {taken} spread {:?}/{:?}/{:?}/{:?}",
        q(0.5),
        q(0.99),
        q(0.999),
        q(1.0)
    );
    println!(
        "copies {:.4} bytes/record {:.3} (record {:.0} B) msg/node/s {:.1} B/node/s {:.0}",
        tr.records as f64 / tr.taken as f64,
        tr.bytes as f64 / tr.taken as f64 / (tr.record_bytes as f64 / tr.records as f64),
        tr.record_bytes as f64 / tr.records as f64,
        tr.messages as f64 / n as f64 / secs as f64,
        tr.bytes as f64 / n as f64 / secs as f64
    );
    for (k, (m, b)) in hansa_core::directory::Talk::KINDS.iter().zip(tr.kinds) {
        println!(
            "   {k:9} {:.2} msg/node/s {:.0} B/node/s",
            m as f64 / n as f64 / secs as f64,
            b as f64 / n as f64 / secs as f64
        );
    }
    let p = l.deaths;
    println!(
        "deaths {p} detect {:?}/{:?}/{:?} false {} count {}",
        l.detection.quantile(0.5, p),
        l.detection.quantile(0.99, p),
        l.detection.quantile(1.0, p),
        l.false_downs,
        l.detection.count()
    );
    println!("hash {}", w.hash());
}
