//! What a process and its children have used, from /proc.

use std::fs;

/// CPU seconds of the process tree below `pid`, it included.
pub fn cpu(pid: u32) -> f64 {
    let of = |pid: &u32| -> f64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        // USER_HZ, which Linux fixes at 100 for programs.
        ticks as f64 / 100.0
    };
    tree(pid).iter().map(of).sum()
}

/// The most memory the tree has had, in MB.
pub fn peak_megabytes(pid: u32) -> f64 {
    tree(pid)
        .iter()
        .map(|pid| status(*pid, "VmHWM:"))
        .sum::<f64>()
        / 1e3
}

/// The memory the tree has now, in KB.
pub fn kilobytes(pid: u32) -> f64 {
    tree(pid).iter().map(|pid| status(*pid, "VmRSS:")).sum()
}

fn status(pid: u32, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        let children: Vec<u32> = threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
            .flat_map(|text| {
                let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
                pids.collect::<Vec<u32>>()
            })
            .collect();
        all.extend(children);
        next += 1;
    }
    all
}
