//! `cargo xtask test --board`: a board's chat against the same on this machine.

use anyhow::{Result, bail, ensure};
use bytesize::ByteSize;

use crate::chat::{TURNS, Transcript, converse};
use crate::image::Inputs;
use crate::run::Emulation;
use crate::{run, workspace};

/// Options of `rill chat` for both sides: sampling as the image advises, and an end.
const SETTINGS: [(&str, &str); 2] = [("seed", "7"), ("max-tokens", "48")];
/// Too little for all experts of the kiosk model: the test is one of paging too.
const RAM: ByteSize = ByteSize::mib(18);

/// Talks with a board and compares what it says with what the program says on this machine.
pub fn run(name: &str, emulation: &Emulation) -> Result<()> {
    let there = talk(name, emulation)?;
    let here = talk("host", &Emulation::default())?;
    print!("{}", there.answers);
    println!("{}", there.stats);
    if there.answers != here.answers {
        bail!("{name} answers otherwise than this machine, which says:\n{}", here.answers);
    }
    let board = workspace::board(name)?;
    let kernels = there.kernels().unwrap_or("none");
    // QEMU has no AVX-VNNI: the table below it runs.
    let expected = &board.cpu.kernels;
    let emulated = expected == "avxvnni" && kernels == "avx2";
    ensure!(
        expected == "best" || expected == kernels || emulated,
        "{name} used the kernel table {kernels}; boards/{name}.toml says {expected}"
    );
    println!("{name}: {} answers equal those of this machine ({kernels})", TURNS.len());
    Ok(())
}

fn talk(name: &str, emulation: &Emulation) -> Result<Transcript> {
    let mut inputs = Inputs::new(name, None, Some(RAM))?;
    inputs.settings =
        SETTINGS.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))).to_vec();
    converse(run::machine(&inputs, emulation)?, &TURNS)
}
