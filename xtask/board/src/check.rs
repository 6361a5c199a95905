//! What the types of a board file cannot say.

use super::{Board, Emulator, Platform, Region, TABLES};

/// Finds the first contradiction: a key and what is wrong with it.
pub fn check(board: &Board) -> Result<(), (&'static str, String)> {
    if board.cpu.cores == Some(0) {
        return Err(("cpu.cores", "a CPU has at least one core".into()));
    }
    check_kernels(board)?;
    if board.ram.size < board.budget {
        let message = format!("{} is more than ram.size, {}", board.budget, board.ram.size);
        return Err(("budget", message));
    }
    if let Some(instructions) = board.instructions {
        if board.architecture() != "aarch64" {
            return Err(("instructions", "only 64-bit Arm is counted".into()));
        }
        if instructions.token == 0 {
            return Err(("instructions.token", "no token is computed by no instruction".into()));
        }
    }
    if let Some(size) = board.storage.image
        && !size.as_u64().is_power_of_two()
    {
        return Err(("storage.image", format!("{size} is no power of two")));
    }
    match (board.platform, &board.bare) {
        (Platform::Bare, None) => {
            return Err(("bare", "a board without an operating system needs this table".into()));
        }
        (Platform::Linux | Platform::Executorch, Some(_)) => {
            return Err(("bare", "a board with Linux has no such table".into()));
        }
        _ => {}
    }
    match (board.platform, board.sizes.bundle) {
        (Platform::Linux, None) => {
            return Err(("sizes.bundle", "is missing: what all but the model may take".into()));
        }
        (Platform::Bare | Platform::Executorch, Some(_)) => {
            return Err(("sizes.bundle", "only a board with Linux has a bundle".into()));
        }
        _ => {}
    }
    if board.platform != Platform::Linux && board.appliance.is_some() {
        return Err(("appliance", "only boards with Linux have this table".into()));
    }
    let boots = matches!(board.emulator, Some(Emulator::System { .. }));
    if board.platform == Platform::Bare && !boots {
        return Err(("emulator.kind", "only `system` boots a kernel".into()));
    }
    if let Some(bare) = &board.bare {
        let within = |region: &Region| region.start <= bare.load && bare.load < region.end();
        if !bare.ram.first().is_some_and(within) {
            return Err(("bare.load", "lies outside the first region of bare.ram".into()));
        }
        let regions: Vec<_> = bare.ram.iter().chain(&bare.mmio).collect();
        for (i, a) in regions.iter().enumerate() {
            if a.len == 0 || a.start.checked_add(a.len).is_none() {
                return Err(("bare.ram", format!("region at {:#x} has a wrong length", a.start)));
            }
            if regions[..i].iter().any(|b| a.start < b.end() && b.start < a.end()) {
                return Err(("bare.ram", format!("region at {:#x} overlaps another", a.start)));
            }
        }
    }
    Ok(())
}

fn check_kernels(board: &Board) -> Result<(), (&'static str, String)> {
    if board.cpu.kernels == "best" {
        return Ok(());
    }
    let Some(table) = TABLES.iter().find(|known| known.name == board.cpu.kernels) else {
        let table = &board.cpu.kernels;
        let names = TABLES.map(|table| table.name).join(", ");
        return Err(("cpu.kernels", format!("no kernel table `{table}`; there are {names}")));
    };
    match table.needs.iter().find(|need| !board.cpu.features.iter().any(|has| has == *need)) {
        Some(need) => {
            Err(("cpu.kernels", format!("`{}` needs `{need}` in cpu.features", table.name)))
        }
        None => Ok(()),
    }
}

impl Region {
    /// The address after the last.
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}
