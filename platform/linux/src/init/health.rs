//! Whether the program still gets on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A device that has not answered a read for this long will not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Watches a process by what the kernel says of its threads.
pub struct Health {
    tasks: PathBuf,
    /// Work done when it was last seen to change, and when that was.
    work: u64,
    since: Instant,
}

impl Health {
    /// Watches the process of this number.
    pub fn new(process: u32) -> Self {
        let tasks = PathBuf::from(format!("/proc/{process}/task"));
        Self { tasks, work: 0, since: Instant::now() }
    }

    /// False when a thread has waited for a device for `PATIENCE` and nothing else happened: the
    /// program waits for a message, computes or reads as long as it is well.
    pub fn is_well(&mut self) -> bool {
        let (work, stuck) = look(&self.tasks);
        if work != self.work || !stuck {
            self.work = work;
            self.since = Instant::now();
        }
        self.since.elapsed() < PATIENCE
    }
}

/// CPU time of all threads, and whether one waits for a device.
fn look(tasks: &Path) -> (u64, bool) {
    let (mut work, mut stuck) = (0, false);
    for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
        // A thread that has ended since has no file.
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        if let Some((state, time)) = parse(&stat) {
            work += time;
            stuck |= state == "D";
        }
    }
    (work, stuck)
}

/// State and CPU time, user's and system's, of `/proc/PID/stat`: fields 3, 14 and 15 of
/// `proc_pid_stat(5)`. The second field, a name in parentheses, may hold anything.
fn parse(stat: &str) -> Option<(&str, u64)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((state, user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_confuse() {
        let stat = "7 (a) D (b) S 1 7 7 0 -1 4194560 1 0 0 0 11 31 0 0 20 0 1 0 5 0 0";
        assert_eq!(parse(stat), Some(("S", 42)));
        assert_eq!(parse("7 (x"), None);
    }

    #[test]
    fn this_process_is_well() {
        let mut health = Health::new(std::process::id());
        assert!(health.is_well());
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(parse(&own).is_some(), "{own}");
    }

    #[test]
    fn a_thread_that_waits_for_a_device_too_long_is_not_well() {
        let folder = tempfile::tempdir().unwrap();
        let task = folder.path().join("1");
        fs::create_dir(&task).unwrap();
        let stat = |state: &str, time: u64| {
            let text = format!("1 (rill) {state} 1 1 1 0 -1 0 0 0 0 0 {time} 0 0 0 20 0 1 0 5 0 0");
            fs::write(task.join("stat"), text).unwrap();
        };
        let before = Instant::now().checked_sub(PATIENCE).unwrap();
        let tasks = folder.path().to_owned();
        let mut health = Health { tasks, work: 5, since: before };
        stat("D", 5);
        assert!(!health.is_well());
        stat("D", 6);
        assert!(health.is_well());
        health.since = before;
        stat("S", 6);
        assert!(health.is_well());
    }
}
