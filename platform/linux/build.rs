//! Packs the small model that is built into the program, when it is.

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

    use rill_pack::{Options, Quiet};

    pub fn pack() -> Result<(), Box<dyn Error>> {
        let checkpoint = Path::new("../../tests/data/kiosk/kiosk-16m");
        println!("cargo::rerun-if-changed={}", checkpoint.display());
        let image =
            PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("kiosk.rill");
        rill_pack::pack(checkpoint, &image, &Options::default(), &Quiet)?;
        Ok(())
    }
}
