//! What the kernel tells of this machine, in the files of `proc` and `sys`.
//!
//! Formats: <https://docs.kernel.org/admin-guide/pm/cpufreq.html>,
//! <https://docs.kernel.org/driver-api/thermal/sysfs-api.html>; the flags of a Raspberry Pi's power
//! supply: <https://www.raspberrypi.com/documentation/computers/os.html> (`get_throttled`), and in
//! kernels without Raspberry Pi's own driver <https://docs.kernel.org/hwmon/raspberrypi-hwmon.html>.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use serde::Serialize;

use crate::memory::Ram;

/// What is known; what the kernel does not tell is `None` or missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct System {
    /// What the board calls itself.
    pub board: Option<String>,
    /// What the CPU is called.
    pub cpu: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// All RAM.
    pub ram_bytes: u64,
    /// RAM that is free, or can be.
    pub available_bytes: u64,
    /// The least limit of the control groups around this process.
    pub group_limit_bytes: Option<u64>,
    /// The folder of that group.
    pub group: Option<PathBuf>,
    /// The budget when none is named.
    pub default_budget_bytes: u64,
    /// Bytes that may be locked into RAM; `None` for any number.
    pub lock_limit_bytes: Option<u64>,
    /// Where pages of RAM may be moved.
    pub swap: Vec<Swap>,
    /// How fast cores run.
    pub frequency: Vec<Frequency>,
    /// How warm it is.
    pub temperatures: Vec<Temperature>,
    /// What the firmware of a Raspberry Pi says of its power and heat, now and since it started.
    pub power: Option<Power>,
}

/// A place where pages of RAM may be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Swap {
    /// Its file or device.
    pub name: String,
    /// Bytes of room.
    pub bytes: u64,
    /// Bytes that are in use.
    pub used_bytes: u64,
}

/// How fast cores that belong together run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frequency {
    /// Their numbers.
    pub cores: String,
    /// What sets their frequency.
    pub driver: String,
    /// By which rule.
    pub governor: String,
    /// What they may have.
    pub most_khz: Option<u64>,
    /// What the hardware could.
    pub hardware_khz: Option<u64>,
}

/// A sensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Temperature {
    /// What it is called.
    pub sensor: String,
    /// What it shows.
    pub celsius: f64,
    /// From here on the kernel slows the machine down.
    pub slows_at_celsius: Option<f64>,
}

/// Flags, for now and for some time since the board started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Power {
    /// Now.
    pub now: Flags,
    /// At some time since the board started.
    pub since_start: Flags,
}

/// What the firmware says of its power and heat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// The supply gave too little.
    pub under_voltage: bool,
    /// The firmware held the frequency down.
    pub frequency_capped: bool,
    /// The firmware slowed the cores down.
    pub throttled: bool,
    /// It was warmer than the firmware likes.
    pub soft_temperature_limit: bool,
}

impl System {
    /// Reads it below `root`.
    pub fn read(root: &Path, ram: Ram) -> Self {
        let limit = ram.limit.clone().filter(|limit| limit.bytes < ram.total);
        Self {
            board: text(&root.join("proc/device-tree/model")),
            cpu: cpu(&root.join("proc/cpuinfo")),
            cores: available_parallelism().map_or(1, usize::from),
            ram_bytes: ram.total,
            available_bytes: ram.available,
            default_budget_bytes: ram.budget(),
            group_limit_bytes: limit.as_ref().map(|limit| limit.bytes),
            group: limit.map(|limit| limit.group),
            lock_limit_bytes: lock_limit(&root.join("proc/self/limits")),
            swap: swap(&root.join("proc/swaps")),
            frequency: frequency(&root.join("sys/devices/system/cpu/cpufreq")),
            temperatures: temperatures(&root.join("sys/class/thermal")),
            power: power(&root.join("sys")),
        }
    }
}

impl Flags {
    /// Bits of `get_throttled`, from the lowest of them on.
    fn of(bits: u32) -> Self {
        let has = |bit: u32| bits & 1 << bit != 0;
        Self {
            under_voltage: has(0),
            frequency_capped: has(1),
            throttled: has(2),
            soft_temperature_limit: has(3),
        }
    }

    /// Those that are set.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.under_voltage, "under-voltage"),
            (self.frequency_capped, "slowed down"),
            (self.throttled, "throttled"),
            (self.soft_temperature_limit, "at the soft temperature limit"),
        ]
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
    }
}

/// The text of a small file, without what ends it.
fn text(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// The entries of a folder whose names begin so, in order of the numbers that follow.
fn numbered(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.strip_prefix(start)?.parse::<u32>().ok()?;
        Some((number, path))
    };
    let mut found: Vec<_> = entries.filter_map(|entry| number(entry.path())).collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// What the CPU is called; on Arm only its numbers are told.
fn cpu(path: &Path) -> Option<String> {
    let info = fs::read_to_string(path).ok()?;
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().map(str::trim) == Some(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    field("model name").or_else(|| Some(arm_core(&field("CPU part")?)))
}

/// Cores of Arm's own by their part numbers.
fn arm_core(part: &str) -> String {
    let known = [
        ("0xd03", "Cortex-A53"),
        ("0xd05", "Cortex-A55"),
        ("0xd08", "Cortex-A72"),
        ("0xd0b", "Cortex-A76"),
    ];
    let name = known.iter().find(|(number, _)| *number == part);
    name.map_or_else(|| format!("Arm part {part}"), |(_, name)| (*name).to_owned())
}

/// The soft limit of locked bytes; `None` for no limit, or one that is not told.
fn lock_limit(path: &Path) -> Option<u64> {
    let limits = fs::read_to_string(path).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn swap(path: &Path) -> Vec<Swap> {
    let table = fs::read_to_string(path).unwrap_or_default();
    let row = |line: &str| {
        // name, type, kilobytes, kilobytes used, priority; spaces in the name are written `\040`.
        let mut fields = line.split_whitespace();
        let name = fields.next()?.replace("\\040", " ");
        let mut kilobytes =
            fields.skip(1).map(|field| field.parse::<u64>().ok()?.checked_mul(1024));
        Some(Swap { name, bytes: kilobytes.next()??, used_bytes: kilobytes.next()?? })
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn frequency(folder: &Path) -> Vec<Frequency> {
    let policy = |path: PathBuf| {
        Some(Frequency {
            cores: text(&path.join("affected_cpus"))?,
            driver: text(&path.join("scaling_driver")).unwrap_or_default(),
            governor: text(&path.join("scaling_governor"))?,
            most_khz: number(&path.join("scaling_max_freq")),
            hardware_khz: number(&path.join("cpuinfo_max_freq")),
        })
    };
    numbered(folder, "policy").into_iter().filter_map(policy).collect()
}

fn temperatures(folder: &Path) -> Vec<Temperature> {
    let celsius = |path: &Path| Some(text(path)?.parse::<f64>().ok()? / 1000.0);
    let zone = |zone: PathBuf| {
        let trips = numbered_trips(&zone);
        let slows = trips.iter().filter_map(|trip| celsius(trip)).min_by(f64::total_cmp);
        Some(Temperature {
            sensor: text(&zone.join("type")).unwrap_or_else(|| "of a sensor without a name".into()),
            celsius: celsius(&zone.join("temp"))?,
            slows_at_celsius: slows.filter(|&trip| trip > 0.0),
        })
    };
    numbered(folder, "thermal_zone").into_iter().filter_map(zone).collect()
}

/// Files with the temperatures at which a zone slows the machine down.
fn numbered_trips(zone: &Path) -> Vec<PathBuf> {
    let path = |number: u32, what: &str| zone.join(format!("trip_point_{number}_{what}"));
    (0..)
        .map_while(|number| Some((number, text(&path(number, "type"))?)))
        .filter(|(_, kind)| kind == "passive")
        .map(|(number, _)| path(number, "temp"))
        .collect()
}

fn power(sys: &Path) -> Option<Power> {
    let bits = ["devices/platform/soc", "devices/platform/axi"]
        .iter()
        .find_map(|bus| {
            let name = format!("{}:firmware/get_throttled", bus.rsplit('/').next().unwrap_or(bus));
            text(&sys.join(bus).join(name))
        })
        .and_then(|bits| u32::from_str_radix(bits.trim_start_matches("0x"), 16).ok());
    if let Some(bits) = bits {
        return Some(Power { now: Flags::of(bits), since_start: Flags::of(bits >> 16) });
    }
    let sensors = numbered(&sys.join("class/hwmon"), "hwmon");
    let volt = sensors
        .into_iter()
        .find(|sensor| text(&sensor.join("name")).as_deref() == Some("rpi_volt"))?;
    let alarm = number(&volt.join("in0_lcrit_alarm"))? != 0;
    let now = Flags { under_voltage: alarm, ..Flags::default() };
    // The driver keeps the alarm only while it lasts.
    Some(Power { now, since_start: now })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::tree;

    #[test]
    fn the_firmware_of_a_raspberry_pi_tells_of_its_power() {
        let path = "devices/platform/soc/soc:firmware/get_throttled";
        for (bits, now, since) in [
            ("0\n", vec![], vec![]),
            ("50005\n", vec!["under-voltage", "throttled"], vec!["under-voltage", "throttled"]),
            (
                "0xe0008",
                vec!["at the soft temperature limit"],
                vec!["slowed down", "throttled", "at the soft temperature limit"],
            ),
        ] {
            let power = power(tree(&[(path, bits)]).path()).unwrap();
            assert_eq!(power.now.names().collect::<Vec<_>>(), now, "{bits}");
            assert_eq!(power.since_start.names().collect::<Vec<_>>(), since, "{bits}");
        }
        let sensors = tree(&[
            ("class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("class/hwmon/hwmon1/name", "rpi_volt\n"),
            ("class/hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
        ]);
        assert!(power(sensors.path()).unwrap().now.under_voltage);
        assert_eq!(power(tree(&[(path, "what")]).path()), None);
        assert_eq!(power(Path::new("/nonexistent")), None);
    }

    #[test]
    fn sensors_say_when_they_slow_the_machine_down() {
        let root = tree(&[
            ("thermal_zone10/type", "nvme\n"),
            ("thermal_zone10/temp", "41500\n"),
            ("thermal_zone2/type", "cpu-thermal\n"),
            ("thermal_zone2/temp", "81000\n"),
            ("thermal_zone2/trip_point_0_type", "critical\n"),
            ("thermal_zone2/trip_point_0_temp", "110000\n"),
            ("thermal_zone2/trip_point_1_type", "passive\n"),
            ("thermal_zone2/trip_point_1_temp", "80000\n"),
            ("thermal_zone3/type", "off\n"),
        ]);
        let found = temperatures(root.path());
        let cpu = Temperature {
            sensor: "cpu-thermal".into(),
            celsius: 81.0,
            slows_at_celsius: Some(80.0),
        };
        let nvme = Temperature { sensor: "nvme".into(), celsius: 41.5, slows_at_celsius: None };
        assert_eq!(found, [cpu, nvme]);
    }

    #[test]
    fn tables_are_read_and_odd_lines_left_out() {
        let root = tree(&[
            (
                "swaps",
                "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 1024 512 100\n\
                 /my\\040swap file 2048 0 -2\nnonsense\n/x file many 0 -2\n",
            ),
            ("limits", "Limit  Soft Hard Units\nMax locked memory   8388608 8388608 bytes\n"),
            ("free", "Max locked memory         unlimited            unlimited bytes\n"),
            ("cpuinfo", "processor\t: 0\nCPU part\t: 0xd0b\n"),
            ("pc", "processor : 0\nmodel : 1\nmodel name\t: A CPU @ 3 GHz\n"),
        ]);
        let path = |name: &str| root.path().join(name);
        let swap = |name: &str, bytes, used_bytes| Swap { name: name.into(), bytes, used_bytes };
        let expected = [swap("/dev/zram0", 1 << 20, 1 << 19), swap("/my swap", 2 << 20, 0)];
        assert_eq!(super::swap(&path("swaps")), expected);
        assert_eq!(lock_limit(&path("limits")), Some(8 << 20));
        assert_eq!(lock_limit(&path("free")), None);
        assert_eq!(cpu(&path("cpuinfo")).unwrap(), "Cortex-A76");
        assert_eq!(cpu(&path("pc")).unwrap(), "A CPU @ 3 GHz");
        assert_eq!(cpu(&path("none")), None);
    }
}
