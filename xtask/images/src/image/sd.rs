//! Images for boards without an operating system: a kernel, and a disk with the model.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use rill_board::{Bare, Board, Boot};

use super::disk::{self, Content, Partition, RAW};
use super::sizes::Sizes;
use super::{Inputs, put};
use crate::kernel;

/// The boot partition: kernels and firmware fit many times.
const BOOT: ByteSize = ByteSize::mib(48);
/// The smallest disk, when the board's file asks for no larger one.
const LEAST: ByteSize = ByteSize::mib(64);
const CONFIG_TXT: &str = include_str!("bare/config.txt");
/// The licence of the Raspberry Pi firmware, as its repository and Debian call it.
const FIRMWARE_LICENCES: [&str; 2] = ["LICENCE.broadcom", "copyright"];

/// Makes `kernel8.img` and `NAME.img`; returns their paths.
pub fn make(inputs: &Inputs, output: &Path) -> Result<Vec<PathBuf>> {
    let board = &inputs.board;
    let bare = board.bare.as_ref().context("checked with the board's file")?;
    let elf = kernel::build(board)?;
    let image = kernel::flatten(&elf, bare.load)?;
    let mut sizes = Sizes::default();
    sizes.add("kernel", image.len() as u64).limit("sizes.program", Some(board.sizes.program));
    sizes.add_sections(&elf)?;
    let footprint = kernel::footprint(&elf)?;
    sizes.note("engine, of the kernel", footprint.engine).limit("sizes.engine", board.sizes.engine);
    sizes.note("RAM outside the arena", footprint.ram).limit("sizes.ram", board.sizes.ram);

    let mut files = vec![("RILL.CFG".to_owned(), Content::Bytes(config(inputs).into_bytes()))];
    if bare.boot == Boot::RaspberryPi {
        files.push(("kernel8.img".to_owned(), Content::Bytes(image.clone())));
        files.push(("config.txt".to_owned(), Content::Bytes(config_txt(board, bare))));
        firmware(inputs, &mut files)?;
    }
    let mut boot = 0;
    for (name, content) in &files {
        if name != "kernel8.img" {
            boot += content.len()?;
        }
    }
    sizes.add("boot files", boot).limit("sizes.boot", board.sizes.boot);
    sizes.add("model", fs::metadata(&inputs.model)?.len());
    println!("{sizes}");
    sizes.check(&board.name)?;

    let made = tempfile::Builder::new().prefix(".rill").tempdir_in(output)?;
    let kernel = made.path().join(match bare.boot {
        Boot::RaspberryPi => "kernel8.img".to_owned(),
        Boot::Kernel => format!("rill-{}-kernel.img", board.name),
    });
    fs::write(&kernel, &image)?;
    let card = made.path().join(format!("rill-{}.img", board.name));
    let model = Partition::Raw { kind: RAW, from: inputs.model.clone() };
    let parts = [Partition::Boot { size: BOOT, files }, model];
    disk::write(&card, board.storage.image.unwrap_or(LEAST), &parts)?;
    [kernel, card].iter().map(|from| put(from, output)).collect()
}

/// The program's settings: keys are the options of `rill chat`.
pub fn config(inputs: &Inputs) -> String {
    let mut text = format!("ram = {}\n", inputs.ram);
    for (key, value) in &inputs.settings {
        text += &format!("{key} = {}\n", value.as_deref().unwrap_or("true"));
    }
    text
}

fn config_txt(board: &Board, bare: &Bare) -> Vec<u8> {
    let text = CONFIG_TXT
        .replace("@TITLE@", &board.title)
        .replace("@CLOCK@", &bare.console.clock_hz.to_string());
    text.into_bytes()
}

/// Adds the firmware that the board's file names, and its licence.
fn firmware(inputs: &Inputs, files: &mut Vec<(String, Content)>) -> Result<()> {
    let board = &inputs.board;
    let Some(folder) = &inputs.firmware else {
        if !board.firmware.is_empty() {
            eprintln!(
                "note: without --firmware DIR the image boots under QEMU only; DIR has {}",
                board.firmware.join(", ")
            );
        }
        return Ok(());
    };
    for name in &board.firmware {
        let path = folder.join(name);
        if !path.is_file() {
            bail!("{}: not there; boards/{}.toml names it (firmware)", path.display(), board.name);
        }
        files.push((name.clone(), Content::Copy(path)));
    }
    let licence = FIRMWARE_LICENCES.iter().map(|name| folder.join(name)).find(|p| p.is_file());
    let Some(licence) = licence else {
        let names = FIRMWARE_LICENCES.join(" or ");
        bail!("{}: the firmware's licence has to go with it: {names}", folder.display());
    };
    files.push(("LICENCE.broadcom".to_owned(), Content::Copy(licence)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use xtask::workspace;

    use super::*;

    #[test]
    fn firmware_comes_from_a_folder_with_its_licence() {
        let folder = tempfile::tempdir().unwrap();
        let mut inputs = Inputs {
            board: workspace::board("pi3-bare").unwrap(),
            model: PathBuf::new(),
            ram: 1,
            settings: Vec::new(),
            firmware: None,
        };
        let names = inputs.board.firmware.clone();
        let added = |inputs: &Inputs| {
            let mut files = Vec::new();
            firmware(inputs, &mut files).map(|()| files)
        };
        assert!(added(&inputs).unwrap().is_empty());
        inputs.firmware = Some(folder.path().to_owned());
        for name in &names {
            let message = added(&inputs).err().unwrap().to_string();
            assert!(
                message.contains(name) && message.contains("boards/pi3-bare.toml"),
                "{message}"
            );
            fs::write(folder.path().join(name), name).unwrap();
        }
        let message = added(&inputs).err().unwrap().to_string();
        assert!(message.contains("LICENCE.broadcom or copyright"), "{message}");
        fs::write(folder.path().join("copyright"), "terms").unwrap();
        let files: Vec<_> = added(&inputs).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(files, [&names[..], &["LICENCE.broadcom".to_owned()]].concat());
    }
}
