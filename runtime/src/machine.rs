//! The machine itself: its processor's name, its memory, how busy it is. Linux tells through
//! `/proc`; macOS through `sysctl`, as far as that goes; others not at all.

use std::fs;
use std::process::Command;

/// The processor's name, or its architecture where nothing says more.
pub(crate) fn cpu_name() -> String {
    let proc = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = proc.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = line.map(|(_, name)| name.trim().to_owned());
    name.or_else(|| sysctl("machdep.cpu.brand_string"))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Memory in all and free (to programs, caches given up), in MiB.
pub(crate) fn memory() -> (u32, u32) {
    let Ok(proc) = fs::read_to_string("/proc/meminfo") else {
        let bytes = sysctl("hw.memsize").and_then(|bytes| bytes.parse::<u64>().ok());
        let total = mib(bytes.unwrap_or(0));
        return (total, 0);
    };
    (field_mib(&proc, "MemTotal:"), field_mib(&proc, "MemAvailable:"))
}

fn field_mib(proc: &str, name: &str) -> u32 {
    let line = proc.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    mib(kib.unwrap_or(0).saturating_mul(1024))
}

/// Bytes to MiB.
pub(crate) fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes / (1024 * 1024)).unwrap_or(u32::MAX)
}

fn sysctl(name: &str) -> Option<String> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let output = Command::new("sysctl").args(["-n", name]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// How busy the cores were between two looks.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    /// Ticks idle and in all at the last look.
    last: Option<(u64, u64)>,
}

impl CpuMeter {
    /// The busy share since the last call, in percent; absent on the first.
    pub(crate) fn percent(&mut self) -> Option<u8> {
        let now = ticks(&fs::read_to_string("/proc/stat").ok()?)?;
        let last = self.last.replace(now)?;
        let (idle, all) = (now.0.checked_sub(last.0)?, now.1.checked_sub(last.1)?);
        let busy = all.checked_sub(idle)?.saturating_mul(100).checked_div(all)?;
        u8::try_from(busy).ok()
    }
}

/// Idle (and waiting for disks) and all ticks of the line that sums up the cores.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    // The first eight; guests' time is counted in them already.
    let ticks: Vec<u64> = numbers.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_all_ticks_are_told_apart() {
        let stat = "cpu  10 1 5 80 4 0 0 0 7 7\ncpu0 10 1 5 80 4 0 0 0 7 7\n";
        assert_eq!(ticks(stat), Some((84, 100)));
        assert_eq!(ticks("intr 1 2"), None);
    }

    #[test]
    fn memory_is_read_in_mib() {
        let proc = "MemTotal:       2097152 kB\nMemFree: 1 kB\nMemAvailable:   1048576 kB\n";
        assert_eq!(field_mib(proc, "MemTotal:"), 2_048);
        assert_eq!(field_mib(proc, "MemAvailable:"), 1_024);
        assert_eq!(field_mib(proc, "HugePages_Total:"), 0);
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        assert!(!cpu_name().is_empty());
        assert!(memory().0 > 0);
    }
}
