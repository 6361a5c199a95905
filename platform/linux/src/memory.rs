//! How much RAM the process may use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rill::size::Size;

/// Where control groups are mounted, below the root.
const GROUPS: &str = "sys/fs/cgroup";

/// RAM left to the rest of the system when the budget is chosen by what is free.
const SPARE: u64 = 64 << 20;

/// The budget when the user names none: what is free now, less a little for others.
pub fn default_budget() -> io::Result<u64> {
    Ok(Ram::read(Path::new("/"))?.budget())
}

/// RAM, as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ram {
    /// Bytes that the kernel manages.
    pub total: u64,
    /// Bytes that can be had without swapping.
    pub available: u64,
    /// Bytes that the control groups around this process still allow.
    pub room: Option<u64>,
    /// Their least limit.
    pub limit: Option<GroupLimit>,
}

impl Ram {
    /// Reads it of the machine whose `proc` and `sys` are in the folder `root`.
    pub fn read(root: &Path) -> io::Result<Self> {
        let meminfo = fs::read_to_string(root.join("proc/meminfo"))?;
        let field = |name| kilobytes(&meminfo, name);
        let available = field("MemAvailable:")
            .ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable; give --ram"))?;
        let groups = own_groups(root);
        let mounted = root.join(GROUPS);
        Ok(Self {
            total: field("MemTotal:").unwrap_or(available),
            available,
            room: cgroup_room(&groups, &mounted),
            limit: least_limit(&groups, &mounted),
        })
    }

    /// The budget when the user names none: the smaller of what is available and the room in every
    /// control group around this process, less a little for others.
    pub fn budget(&self) -> u64 {
        let free = self.available.min(self.room.unwrap_or(u64::MAX));
        free - SPARE.min(free / 8)
    }
}

/// The limit of a memory control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimit {
    /// Bytes: the kernel ends or stops processes that use more.
    pub bytes: u64,
    /// The group's folder.
    pub group: PathBuf,
}

/// The least limit of the control groups around this process, if one has any.
pub fn group_limit() -> Option<GroupLimit> {
    let root = Path::new("/");
    least_limit(&own_groups(root), &root.join(GROUPS))
}

/// The control groups of this process, as the kernel lists them.
fn own_groups(root: &Path) -> String {
    fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default()
}

/// Reads a size, as [`Size`] does.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let size: Size = text.parse().map_err(|error| format!("`{text}` is {error}"))?;
    Ok(size.0)
}

/// The most RAM this process has had so far, page tables included, in bytes; `None` where the kernel
/// does not say.
pub fn peak_resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    // Page tables only grow while a mapping lives, and no large one ends before the process.
    kilobytes(&status, "VmHWM:")?.checked_add(kilobytes(&status, "VmPTE:")?)
}

/// Page faults of this process so far: minor ones, and major ones, which read from a device. `None`
/// where the kernel does not say.
pub fn page_faults() -> Option<[u64; 2]> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold anything; after it state is field 3, minflt 10, majflt 12.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    let major = fields.nth(1)?.parse().ok()?;
    Some([minor, major])
}

/// The value of a field of a file such as `/proc/meminfo`, in bytes.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least room in the control groups of `list` (the content of `/proc/self/cgroup`) and in the
/// groups around them; `None` when none has a limit. `root` is where they are mounted.
fn cgroup_room(list: &str, root: &Path) -> Option<u64> {
    groups(list, root).filter_map(|(version, group)| version.room(&group)).min()
}

/// The least limit among the same groups.
fn least_limit(list: &str, root: &Path) -> Option<GroupLimit> {
    groups(list, root)
        .filter_map(|(version, group)| Some(GroupLimit { bytes: version.limit(&group)?, group }))
        .min_by_key(|limit| limit.bytes)
}

/// The memory control groups of `list` and all around them, up to `root`.
///
/// Formats: <https://docs.kernel.org/admin-guide/cgroup-v2.html> and `cgroup-v1/memory.html`.
fn groups<'l>(
    list: &'l str,
    root: &Path,
) -> impl Iterator<Item = (&'static Version, PathBuf)> + use<'l> {
    let root = root.to_owned();
    list.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let version = if controllers.is_empty() {
                &V2
            } else if controllers.split(',').any(|name| name == "memory") {
                &V1
            } else {
                return None;
            };
            // In a container the path may be the host's: what does not exist here has no limit.
            Some((version, Path::new(path.trim_start_matches('/'))))
        })
        .flat_map(move |(version, path)| {
            let root = root.join(version.folder);
            path.ancestors().map(move |group| (version, root.join(group)))
        })
}

/// Names of the files of one version of control groups.
struct Version {
    folder: &'static str,
    limits: &'static [&'static str],
    usage: &'static str,
    /// Field of `memory.stat`: page cache that the kernel gives back when asked.
    reclaimable: &'static str,
}

static V2: Version = Version {
    folder: "",
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    reclaimable: "inactive_file",
};
static V1: Version = Version {
    folder: "memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

impl Version {
    /// The limit of this group, if it has one.
    fn limit(&self, group: &Path) -> Option<u64> {
        self.limits.iter().filter_map(|name| number(group, name)).min()
    }

    /// What may still be used in this group; `None` when it has no limit.
    fn room(&self, group: &Path) -> Option<u64> {
        let limit = self.limit(group)?;
        let usage = number(group, self.usage).unwrap_or(0);
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == self.reclaimable)
            .and_then(|(_, value)| value.trim().parse::<u64>().ok())
            .unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
    }
}

/// The number that is all of a group's file; `max` is none.
fn number(group: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::tree;

    #[test]
    fn free_memory_is_read() {
        let meminfo = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:     700 kB\n";
        assert_eq!(kilobytes(meminfo, "MemAvailable:"), Some(700 << 10));
        assert_eq!(kilobytes("MemTotal: 1 kB\n", "MemAvailable:"), None);
        assert!(default_budget().unwrap() > 0);
        assert!(peak_resident().unwrap() > 0);
    }

    #[test]
    fn faults_are_counted() {
        let [before, _] = page_faults().unwrap();
        // An allocation that nobody looks at may be left out.
        let memory = std::hint::black_box(vec![1_u8; 8 << 20]);
        let [after, _] = page_faults().unwrap();
        assert!(after > before, "{} bytes are new", memory.len());
    }

    #[test]
    fn the_tightest_group_counts_in_version_2() {
        let root = tree(&[
            ("a/memory.max", "1000\n"),
            ("a/memory.current", "600\n"),
            ("a/memory.stat", "anon 100\ninactive_file 200\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/memory.high", "900\n"),
            ("a/b/memory.current", "500\n"),
        ]);
        // a: 1000 - (600 - 200); b: 900 - 500.
        assert_eq!(cgroup_room("0::/a/b\n", root.path()), Some(400));
        assert_eq!(cgroup_room("0::/a\n", root.path()), Some(600));
        // A path of the host, seen in a container: the mounted root and what exists count.
        assert_eq!(cgroup_room("0::/host/x\n", root.path()), None);
        assert_eq!(cgroup_room("", root.path()), None);
    }

    #[test]
    fn version_1_has_its_own_files() {
        let root = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/1/memory.limit_in_bytes", "5000\n"),
            ("memory/docker/1/memory.usage_in_bytes", "4500\n"),
            ("memory/docker/1/memory.stat", "total_inactive_file 1500\n"),
        ]);
        let groups = "12:cpu,cpuacct:/docker/1\n9:memory:/docker/1\n0::/docker/1\n";
        assert_eq!(cgroup_room(groups, root.path()), Some(2000));
    }

    #[test]
    fn version_1_without_a_limit_says_the_largest_number() {
        let root = tree(&[("memory/memory.limit_in_bytes", "9223372036854771712\n")]);
        let limit = least_limit("9:memory:/\n", root.path()).unwrap();
        assert!(limit.bytes > 1 << 62, "no budget is above it");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever groups lie within one another, the least limit counts, and it is named.
        #[test]
        fn the_least_limit_of_all_groups_around_counts(
            limits in prop::collection::vec(prop::option::of(1_u64..1 << 40), 1..6),
            high in prop::option::of(1_u64..1 << 40),
            old in any::<bool>(),
        ) {
            let root = tempfile::tempdir().unwrap();
            let (line, mounted, name) = if old {
                ("3:cpu:/x\n7:memory:", root.path().join("memory"), "memory.limit_in_bytes")
            } else {
                ("0::", root.path().to_owned(), "memory.max")
            };
            let mut group = mounted.clone();
            for limit in &limits {
                fs::create_dir_all(&group).unwrap();
                let text = limit.map_or("max".to_owned(), |bytes| bytes.to_string());
                fs::write(group.join(name), format!("{text}\n")).unwrap();
                group.push("inner");
            }
            let high = high.filter(|_| !old);
            if let Some(high) = high {
                fs::write(mounted.join("memory.high"), high.to_string()).unwrap();
            }
            let path = "/inner".repeat(limits.len() - 1);
            let found = least_limit(&format!("{line}{path}/\n"), root.path());
            let least = limits.iter().copied().chain([high]).flatten().min();
            prop_assert_eq!(found.as_ref().map(|limit| limit.bytes), least);
            if let Some(GroupLimit { bytes, group }) = found {
                let said = [name, "memory.high"].map(|name| number(&group, name));
                prop_assert!(said.contains(&Some(bytes)));
            }
        }
    }
}
