//! `rill doctor`: what it tells of machines whose `proc` and `sys` lie in a folder, and that it leaves
//! nothing behind.

use std::fs;
use std::path::Path;

use rill_tests::kiosk;
use rill_tests::program::rill;
use serde_json::Value;

/// A Raspberry Pi 4 with 1 GiB, a weak power supply and a warm day, in a control group.
const PI: [(&str, &str); 19] = [
    ("proc/meminfo", "MemTotal: 948000 kB\nMemFree: 90000 kB\nMemAvailable: 700000 kB\n"),
    ("proc/self/cgroup", "0::/system.slice/rill.service\n"),
    (
        "proc/self/limits",
        "Max locked memory         8388608              8388608              bytes\n",
    ),
    ("proc/swaps", "Filename Type Size Used Priority\n/var/swap file 102396 2048 -2\n"),
    ("proc/cpuinfo", "processor\t: 0\nCPU part\t: 0xd08\n"),
    ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
    ("sys/fs/cgroup/system.slice/rill.service/memory.max", "536870912\n"),
    ("sys/fs/cgroup/system.slice/rill.service/memory.current", "1048576\n"),
    ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/affected_cpus", "0 1 2 3\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_driver", "cpufreq-dt\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1200000\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1800000\n"),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "81277\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "80000\n"),
    ("sys/class/thermal/thermal_zone1/temp", "no number\n"),
];

/// A machine of which the kernel tells the least.
const BARE: [(&str, &str); 1] =
    [("proc/meminfo", "MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\n")];

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn warns(report: &Value, parts: &[&str]) {
    let warnings = report["warnings"].as_array().unwrap();
    for part in parts {
        let said = warnings.iter().any(|warning| warning.as_str().unwrap().contains(part));
        assert!(said, "no {part:?} in {warnings:?}");
    }
}

#[test]
fn a_board_in_distress_is_told_of() {
    let root = tree(&PI);
    let report = rill(&["doctor", "--json", "--system", text(root.path())]).json();
    let system = &report["system"];
    assert_eq!(system["board"], "Raspberry Pi 4 Model B Rev 1.4");
    assert_eq!(system["cpu"], "Cortex-A72");
    assert_eq!(system["ram_bytes"], 948_000 << 10);
    assert_eq!(system["group_limit_bytes"], 512 << 20);
    // What the group still has, less an eighth at most.
    assert_eq!(system["default_budget_bytes"], (511 << 20) - (511 << 20) / 8);
    assert_eq!(system["swap"][0]["name"], "/var/swap");
    assert_eq!(system["power"]["now"]["under_voltage"], true);
    assert_eq!(system["temperatures"].as_array().unwrap().len(), 1);
    assert_eq!(report["image"], Value::Null);
    warns(
        &report,
        &["under-voltage now", "slows the board down", "81 °C", "lowest frequency", "1200"],
    );
    let said = rill(&["doctor", "--system", text(root.path())]).ok();
    for part in
        ["Cortex-A72", "512.0 MiB by", "under-voltage", "powersave up to 1200 MHz", "warning: "]
    {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn what_to_expect_of_an_image_follows_from_what_was_measured() {
    let (root, folder) = (tree(&PI), tempfile::tempdir().unwrap());
    let image = folder.path().join("kiosk.rill");
    fs::write(&image, kiosk::default_image()).unwrap();
    let args = ["doctor", "--json", "-m", text(&image), "--system", text(root.path())];
    for (ram, refused) in [(None, false), (Some("24MiB"), false), (Some("1GiB"), true)] {
        let more = ram.map_or(vec![], |ram| vec!["--ram", ram]);
        let report = rill(&[&args[..], &more].concat()).json();
        let choice = &report["image"];
        let plan =
            ram.map(|ram| rill(&["plan", "--json", "-m", text(&image), "--ram", ram]).json());
        for field in ["budget_bytes", "total_bytes", "slots", "pages", "context"] {
            let planned = plan.as_ref().map_or(&choice[field], |plan| &plan[field]);
            assert_eq!(&choice[field], planned, "{field}");
        }
        let number = |field: &str| choice["forecast"][field].as_f64();
        assert!(number("weight_bytes_per_second").unwrap() > 0.0);
        let [least, most] = ["hit_rate_least", "hit_rate_most"].map(|rate| number(rate).unwrap());
        assert!((0.0..=most).contains(&least) && most <= 1.0);
        let speeds = ["tokens_per_second_least", "tokens_per_second_most"].map(number);
        if least == 1.0 || choice["flash"]["bytes_per_second"].is_u64() {
            assert!(matches!(speeds, [Some(least), Some(most)] if 0.0 < least && least <= most));
        } else {
            assert_eq!(speeds[0], None);
        }
        let warnings = report["warnings"].to_string();
        assert_eq!(warnings.contains("is refused: the control group"), refused, "{warnings}");
    }
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| ["kiosk.rill", "kiosk.rill.probe"].iter().any(|n| name == n)));
}

#[test]
fn what_the_kernel_does_not_tell_is_left_out() {
    let root = tree(&BARE);
    let report = rill(&["doctor", "--json", "--system", text(root.path())]).json();
    assert_eq!(report["system"]["board"], Value::Null);
    assert_eq!(report["system"]["power"], Value::Null);
    assert_eq!(report["system"]["default_budget_bytes"], (3_000_000_u64 << 10) - (64 << 20));
    let nothing = tempfile::tempdir().unwrap();
    rill(&["doctor", "--system", text(nothing.path())]).fails(1, &["how much RAM"]);
    rill(&["doctor", "-m", "/nonexistent.rill"]).fails(1, &["/nonexistent.rill"]);
    assert!(rill(&["doctor"]).ok().contains("io_uring"));
}
