//! What is not as it should be, and what helps.

use rill::size::Size;
use rill_linux::system::{Flags, Power, System};

use super::Choice;
use super::device::Ring;

/// One sentence for each.
pub fn warnings(system: &System, ring: &Ring, choice: Option<&Choice>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(Power { now, since_start }) = system.power {
        if now.under_voltage || since_start.under_voltage {
            let when = if now.under_voltage { "now" } else { "since the board started" };
            warnings.push(format!(
                "under-voltage {when}: use the power supply made for the board, and a short cable"
            ));
        }
        let slowed = |flags: Flags| {
            flags.frequency_capped || flags.throttled || flags.soft_temperature_limit
        };
        if slowed(now) || slowed(since_start) {
            let when = if slowed(now) { "now" } else { "since the board started" };
            warnings.push(format!(
                "the firmware slows the board down or did so ({when}): cool it, or power it better"
            ));
        }
    }
    for sensor in &system.temperatures {
        if let Some(limit) = sensor.slows_at_celsius.filter(|&limit| sensor.celsius >= limit) {
            warnings.push(format!(
                "{} has {:.0} °C, and from {limit:.0} °C on the kernel slows the machine down: cool it",
                sensor.sensor, sensor.celsius
            ));
        }
    }
    for cores in &system.frequency {
        // With these drivers `powersave` follows the load.
        let follows = ["intel_pstate", "amd-pstate-epp"].contains(&cores.driver.as_str());
        if cores.governor == "powersave" && !follows {
            warnings.push(format!(
                "cores {} stay at their lowest frequency: set the governor `schedutil` or \
                 `performance`",
                cores.cores
            ));
        }
        if let (Some(most), Some(hardware)) = (cores.most_khz, cores.hardware_khz)
            && most < hardware
        {
            warnings.push(format!(
                "cores {} may have {} of the {} MHz that they could",
                cores.cores,
                most / 1000,
                hardware / 1000
            ));
        }
    }
    if let Some(error) = &ring.error {
        warnings.push(format!("io_uring cannot be used ({error}): reads take more CPU time"));
    }
    warnings.extend(choice.map(|choice| of_choice(system, choice)).unwrap_or_default());
    warnings
}

/// What is not as it should be with an image.
fn of_choice(system: &System, choice: &Choice) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(choice.flash.note.clone());
    let budget = choice.budget_bytes;
    if let Some(limit) = system.group_limit_bytes.filter(|&limit| budget > limit) {
        let [budget, limit] = [budget, limit].map(Size);
        warnings.push(format!(
            "a budget of {budget} is refused: the control group allows {limit} (--ram)"
        ));
    }
    if budget > system.available_bytes {
        let [budget, free] = [budget, system.available_bytes].map(Size);
        warnings.push(format!("the budget is {budget} and {free} are free: others must give way"));
    }
    let locked = system.lock_limit_bytes.is_none_or(|limit| limit >= choice.total_bytes);
    if !system.swap.is_empty() && !locked {
        warnings.push(
            "weights may be swapped out: allow more locked memory (`ulimit -l`), or do without swap"
                .into(),
        );
    }
    warnings
}
