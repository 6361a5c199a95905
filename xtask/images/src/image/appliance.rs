//! Appliances: disks that boot Debian's Linux with nothing but Rill on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use rill_board::{Appliance, Board, Loader};

use super::disk::{self, Content, Partition, RAW};
use super::modules::Modules;
use super::sizes::Sizes;
use super::{Inputs, put, sd};
use crate::debian::{self, Debian, SUITE, kernel};
use crate::initramfs::Archive;
use crate::program;
use xtask::need::{self, Need};
use xtask::workspace;

/// The boot partition: kernel, initramfs and firmware, and as much again for an update.
const BOOT: ByteSize = ByteSize::mib(192);
/// The partition for state.
const STATE: ByteSize = ByteSize::mib(32);
/// The smallest disk.
const LEAST: ByteSize = ByteSize::mib(256);
/// MBR type of a Linux file system.
const LINUX: u8 = 0x83;
/// Parts of Debian that packages come from when no folder is named.
const COMPONENTS: &str = "main non-free-firmware";
/// Modules of every appliance: its state's file system, and disks of virtual machines.
const MODULES: [&str; 4] = ["crc32c_generic", "ext4", "virtio_mmio", "virtio_blk"];
/// State of the file system is the same for all, so that equal inputs give equal bytes.
const UUID: &str = "52494c4c-0000-4000-8000-000000000001";

const CONFIG_TXT: &str = include_str!("linux/config.txt");

/// What an appliance consists of.
pub struct Made {
    /// The disk.
    pub disk: PathBuf,
    /// The kernel, which is on the disk too.
    pub kernel: PathBuf,
    /// The initramfs, which is on the disk too.
    pub initramfs: PathBuf,
}

/// Makes an appliance in a folder. `packages` has Debian packages; without it they are fetched.
pub fn make(inputs: &Inputs, packages: Option<&Path>, output: &Path) -> Result<Made> {
    let board = &inputs.board;
    let Some(appliance) = &board.appliance else {
        bail!("boards/{}.toml does not say how Linux starts ([appliance])", board.name);
    };
    need::require(&[Need::MKE2FS])?;
    let made = tempfile::Builder::new().prefix(".rill").tempdir_in(output)?;
    let packages = match packages {
        Some(folder) => unpack(folder, made.path())?,
        None => {
            let names: Vec<_> = appliance.packages.iter().map(String::as_str).collect();
            Debian::new(&appliance.architecture, SUITE, COMPONENTS)?.unpacked(&names)?
        }
    };
    let (kernel, version) = kernel(&packages)?;
    let mut sizes = Sizes::default();
    let initramfs = made.path().join(format!("rill-{}-initrd.img", board.name));
    initrd(inputs, appliance, &packages, &version, &initramfs, &mut sizes)?;
    let files = match appliance.loader {
        Loader::RaspberryPi => {
            boot_files(inputs, appliance, &packages, &version, [&kernel, &initramfs])?
        }
    };
    let mut boot = 0;
    for (_, content) in &files {
        boot += content.len()?;
    }
    sizes.add("boot files", boot).limit("sizes.boot", board.sizes.boot);
    sizes.note("kernel, of them", fs::metadata(&kernel)?.len());
    sizes.note("initramfs, of them", fs::metadata(&initramfs)?.len());
    sizes.add("model", fs::metadata(&inputs.model)?.len());
    sizes.add("state", STATE.as_u64());
    println!("{sizes}");
    sizes.check(&board.name)?;

    let state = made.path().join("state");
    format_state(&state)?;
    let card = made.path().join(format!("rill-{}-appliance.img", board.name));
    let parts = [
        Partition::Boot { size: BOOT, files },
        Partition::Raw { kind: RAW, from: inputs.model.clone() },
        Partition::Raw { kind: LINUX, from: state },
    ];
    disk::write(&card, LEAST, &parts)?;
    let copy = made.path().join(format!("rill-{}-vmlinuz", board.name));
    fs::copy(&kernel, &copy)?;
    Ok(Made {
        disk: put(&card, output)?,
        kernel: put(&copy, output)?,
        initramfs: put(&initramfs, output)?,
    })
}

/// Unpacks the packages of a folder.
fn unpack(folder: &Path, to: &Path) -> Result<PathBuf> {
    let packages = debian::debs(folder)?;
    ensure!(!packages.is_empty(), "{} has no packages (*.deb)", folder.display());
    let to = to.join("packages");
    fs::create_dir(&to)?;
    debian::unpack(&packages, &to)?;
    Ok(to)
}

/// Writes the initramfs: the program, what starts it, and modules.
fn initrd(
    inputs: &Inputs,
    appliance: &Appliance,
    packages: &Path,
    version: &str,
    to: &Path,
    sizes: &mut Sizes,
) -> Result<()> {
    let board = &inputs.board;
    let stripped = |name: &str| -> Result<Vec<u8>> {
        let path = to.with_extension(name);
        program::strip(board, &program::build(board, name)?, &path)?;
        let bytes = fs::read(&path)?;
        fs::remove_file(path)?;
        Ok(bytes)
    };
    let (init, rill) = (stripped("rill-init")?, stripped("rill")?);
    let limit = Some(board.sizes.program);
    sizes.note("program", rill.len() as u64).limit("sizes.program", limit);
    sizes.note("init", init.len() as u64);
    let wanted = MODULES.into_iter().chain(appliance.modules.iter().map(String::as_str));
    let modules = Modules::open(packages, version)?.with_dependencies(wanted)?;
    let bytes = modules.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    sizes.note(format!("{} modules", modules.len()), bytes);
    let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();

    let mut archive = Archive::default();
    for folder in ["bin", "dev", "etc", "modules", "proc", "state", "sys"] {
        archive.add(folder, 0o040_755, &[])?;
    }
    archive.add("init", 0o100_755, &init)?;
    archive.add("bin/rill", 0o100_755, &rill)?;
    archive.add("etc/rill.conf", 0o100_644, sd::config(inputs).as_bytes())?;
    archive.add("modules/order", 0o100_644, order.as_bytes())?;
    for (name, bytes) in &modules {
        archive.add(&format!("modules/{name}"), 0o100_644, bytes)?;
    }
    archive.write(fs::File::create(to)?)
}

/// What the board's firmware reads.
fn boot_files(
    inputs: &Inputs,
    appliance: &Appliance,
    packages: &Path,
    version: &str,
    [kernel, initramfs]: [&Path; 2],
) -> Result<Vec<(String, Content)>> {
    let board = &inputs.board;
    let copy = |path: &Path| Content::Copy(path.to_owned());
    let console = &appliance.console;
    let command_line = format!("console=tty0 console={console},115200 quiet panic=10\n");
    let mut files = vec![
        ("vmlinuz".to_owned(), copy(kernel)),
        ("initrd.img".to_owned(), copy(initramfs)),
        ("cmdline.txt".to_owned(), Content::Bytes(command_line.into_bytes())),
        ("config.txt".to_owned(), Content::Bytes(config_txt(board, appliance))),
    ];
    let tree = packages.join("usr/lib").join(format!("linux-image-{version}"));
    let tree = tree.join(&appliance.device_tree);
    ensure!(tree.is_file(), "{}: not there (appliance.device-tree)", tree.display());
    files.push((file_name(&appliance.device_tree), copy(&tree)));
    let firmware = match &inputs.firmware {
        Some(folder) => folder.clone(),
        None => packages.join("usr/lib/raspi-firmware"),
    };
    for name in &board.firmware {
        let path = firmware.join(name);
        ensure!(path.is_file(), "{}: not there (firmware)", path.display());
        files.push((name.clone(), copy(&path)));
    }
    // The kernel is GPL-2.0: these say where its source is.
    let docs = packages.join("usr/share/doc");
    let mut folders: Vec<_> = fs::read_dir(&docs)
        .with_context(|| docs.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    folders.sort();
    files.push(("licences/SOURCES.txt".to_owned(), Content::Bytes(sources(version))));
    for folder in folders {
        let copyright = folder.join("copyright");
        if copyright.is_file() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((format!("licences/{name}.txt"), copy(&copyright)));
        }
    }
    let others = super::licences::collect(&super::licences::Linked::program(board))?;
    files.push(("licences/rill-others.txt".to_owned(), Content::Bytes(others.into_bytes())));
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        files.push((format!("licences/{name}"), copy(&workspace::root().join(name))));
    }
    Ok(files)
}

fn config_txt(board: &Board, appliance: &Appliance) -> Vec<u8> {
    let tree = file_name(&appliance.device_tree);
    CONFIG_TXT.replace("@TITLE@", &board.title).replace("@TREE@", &tree).into_bytes()
}

fn sources(version: &str) -> Vec<u8> {
    format!(
        "Linux {version} is Debian's, unchanged: https://packages.debian.org/source/{SUITE}/linux\n\
         The firmware of Raspberry Pi boards may be used with these only: see its licence.\n"
    )
    .into_bytes()
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Makes an empty file system with a journal.
fn format_state(path: &Path) -> Result<()> {
    fs::File::create(path)?.set_len(STATE.as_u64())?;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-L", "rill-state", "-m", "0", "-U", UUID]);
    command.args(["-E", &format!("hash_seed={UUID},lazy_itable_init=0,root_owner=0:0")]);
    // A clock of its own: 2000-01-01.
    command.env("E2FSPROGS_FAKE_TIME", "946684800").env("SOURCE_DATE_EPOCH", "946684800");
    workspace::output(command.arg(path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Debian package with one file.
    fn package(folder: &Path, name: &str, file: &str) {
        let tree = folder.join(name);
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: arm64\nMaintainer: Nobody <n@example.org>\n\
             Description: a test\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let path = tree.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
        let deb = folder.join(format!("{name}.deb"));
        workspace::output(Command::new("dpkg-deb").arg("--build").args([&tree, &deb])).unwrap();
        fs::remove_dir_all(tree).unwrap();
    }

    #[test]
    fn the_kernel_comes_from_a_folder_of_packages() {
        if !Need::DPKG.is_met() {
            return;
        }
        let (folder, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let message = unpack(folder.path(), to.path()).unwrap_err().to_string();
        assert!(message.contains("has no packages (*.deb)"), "{message}");
        package(folder.path(), "linux", "boot/vmlinuz-6.1.0-9-arm64");
        package(folder.path(), "firmware", "usr/lib/raspi-firmware/start4.elf");
        let packages = unpack(folder.path(), to.path()).unwrap();
        assert!(packages.join("usr/lib/raspi-firmware/start4.elf").is_file());
        let (path, version) = kernel(&packages).unwrap();
        assert_eq!(version, "6.1.0-9-arm64");
        assert_eq!(fs::read_to_string(path).unwrap(), "linux");
        fs::write(packages.join("boot/vmlinuz-6.1.0-10-arm64"), "").unwrap();
        assert!(kernel(&packages).unwrap_err().to_string().contains("several kernels"));
    }
}
