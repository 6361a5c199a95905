//! Packs the small model that is built into the program.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

use rill_pack::{Options, Quiet, pack};

fn main() -> Result<(), Box<dyn Error>> {
    let checkpoint = Path::new("../../tests/data/kiosk/kiosk-16m");
    println!("cargo::rerun-if-changed={}", checkpoint.display());
    println!("cargo::rerun-if-changed=build.rs");
    let image =
        PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("kiosk.rill");
    pack(checkpoint, &image, &Options::default(), &Quiet)?;
    Ok(())
}
