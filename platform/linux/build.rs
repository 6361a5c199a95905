//! Packs the small model that is built into the program, when it is, calibrated.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "kiosk")]
    kiosk::pack()?;
    Ok(())
}

#[cfg(feature = "kiosk")]
mod kiosk {
    use std::env;
    use std::error::Error;
    use std::path::{Path, PathBuf};

    use rill_pack::{Calibration, Options, Quiet};

    pub fn pack() -> Result<(), Box<dyn Error>> {
        let kiosk = Path::new("../../tests/data/kiosk");
        let checkpoint = kiosk.join("kiosk-16m");
        let texts =
            ["calibration.jsonl", "calibration.txt"].map(|name| kiosk.join("texts").join(name));
        for path in texts.iter().chain([&checkpoint]) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        let image =
            PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("kiosk.rill");
        let (options, calibration) = (Options::default(), Calibration::with(&texts));
        rill_pack::pack_calibrated(&checkpoint, &image, &options, &calibration, &Quiet)?;
        Ok(())
    }
}
