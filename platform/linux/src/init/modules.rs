//! Kernel modules that came along in the initramfs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Folder of the modules.
const FOLDER: &str = "/modules";
/// Their file names in it, a line each; what a module depends on is before it.
const ORDER: &str = "/modules/order";

/// Loads all modules. One that cannot be loaded is said and left: another board's hardware.
pub fn load() {
    let order = match fs::read_to_string(ORDER) {
        Ok(order) => order,
        Err(error) => return eprintln!("note: {ORDER}: {error}"),
    };
    for name in order.lines() {
        match load_one(&Path::new(FOLDER).join(name)) {
            Ok(()) => {}
            // Its device is not in this board.
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {}
            Err(error) => eprintln!("note: cannot load {name}: {error}"),
        }
    }
}

fn load_one(path: &Path) -> io::Result<()> {
    Ok(rustix::system::finit_module(File::open(path)?, c"", 0)?)
}
