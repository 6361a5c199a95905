//! What lies in an emulated PC's memory so that Linux starts in it without any firmware: see
//! "The Linux/x86 Boot Protocol" in the kernel's documentation.

use anyhow::{Context, Result, ensure};

/// Bytes of RAM.
pub const RAM: u32 = 256 << 20;
/// Bochs loads an image right only within one of its blocks of memory, which are no larger.
pub const BLOCK: u32 = 8 << 20;

/// Where the kernel finds its parameters, and behind them its command line.
const PARAMS: u32 = 0x1_0000;
const PARAMS_LEN: usize = 0x1000;
/// Where the kernel prefers to run.
const KERNEL: u32 = 16 << 20;
/// Beyond what the kernel takes while it unpacks itself.
const INITRAMFS: u32 = 128 << 20;

/// Where RAM ends that a PC has below its video memory, and where it goes on.
const LOW_END: u32 = 0x9_f000;
const HIGH: u32 = 0x10_0000;

/// The ROM is the last page below 4 GiB.
const ROM: u32 = 0xffff_f000;
const ROM_LEN: usize = 0x1000;
/// Offsets in it: the table of segments, what points at it, code for each mode, and where the CPU
/// starts.
const TABLE: usize = 0x00;
const TABLE_POINTER: usize = 0x20;
const REAL: usize = 0x30;
const PROTECTED: usize = 0x50;
const RESET: usize = 0xff0;

/// The boot protocol's segments, at [`CODE`] and [`DATA`]: flat, 4 GiB.
const SEGMENTS: [u64; 4] = [0, 0, 0x00cf_9a00_0000_ffff, 0x00cf_9200_0000_ffff];
const CODE: u8 = 0x10;
const DATA: u8 = 0x18;

/// Fields of the kernel's header, which its parameters have at the same place.
mod field {
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const HEADER: usize = 0x1f1;
    pub const HEADER_JUMP: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const LOADER: usize = 0x210;
    pub const LOAD_FLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK: usize = 0x218;
    pub const RAMDISK_LEN: usize = 0x21c;
    pub const COMMAND_LINE: usize = 0x228;
    pub const COMMAND_LINE_LEN: usize = 0x238;
    pub const INIT_SIZE: usize = 0x260;
    pub const E820_TABLE: usize = 0x2d0;
}
/// A loader without a number of its own.
const LOADER: u8 = 0xff;
/// The kernel is made to be loaded above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// A range of the memory map that is RAM.
const USABLE: u32 = 1;

/// Bytes and their address.
pub struct Image {
    /// Where they lie.
    pub address: u32,
    /// No more than are left of their [`BLOCK`].
    pub bytes: Vec<u8>,
}

/// All that a machine needs to start.
pub struct Boot {
    /// The ROM that its CPU starts in.
    pub rom: Vec<u8>,
    /// What is in RAM.
    pub images: Vec<Image>,
}

/// Lays out a kernel (`vmlinuz`) with a command line and an initramfs.
pub fn lay_out(kernel: &[u8], command_line: &str, initramfs: &[u8]) -> Result<Boot> {
    let magic = kernel.get(field::MAGIC..field::MAGIC + 4);
    ensure!(magic == Some(b"HdrS"), "this is no Linux kernel for x86");
    // In sectors, less the first.
    let setup = (usize::from(kernel[field::HEADER]) + 1) * 512;
    let code = kernel.get(setup..).context("the kernel ends within its setup")?;
    let end = u64::from(KERNEL) + u64::from(word(kernel, field::INIT_SIZE)?);
    ensure!(end <= u64::from(INITRAMFS), "the kernel takes RAM up to {end:#x}");
    ensure!(initramfs.len() <= (RAM - INITRAMFS) as usize, "the initramfs is too large");

    let mut images = vec![Image {
        address: PARAMS,
        bytes: params(kernel, command_line, u32::try_from(initramfs.len())?)?,
    }];
    for (start, bytes) in [(KERNEL, code), (INITRAMFS, initramfs)] {
        for (address, bytes) in (start..).step_by(BLOCK as usize).zip(bytes.chunks(BLOCK as usize))
        {
            images.push(Image { address, bytes: bytes.to_vec() });
        }
    }
    Ok(Boot { rom: rom(), images })
}

/// The kernel's parameters and its command line.
fn params(kernel: &[u8], command_line: &str, initramfs_len: u32) -> Result<Vec<u8>> {
    let longest = word(kernel, field::COMMAND_LINE_LEN)? as usize;
    ensure!(command_line.len() <= longest, "the command line is longer than {longest} bytes");
    let mut params = vec![0; PARAMS_LEN];
    let header = field::HEADER..field::MAGIC + usize::from(kernel[field::HEADER_JUMP]);
    let from = kernel.get(header.clone()).context("the kernel ends within its header")?;
    params[header].copy_from_slice(from);
    params[field::LOADER] = LOADER;
    params[field::LOAD_FLAGS] |= LOADED_HIGH;
    let mut put = |at: usize, value: u32| {
        params[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    put(field::CODE32_START, KERNEL);
    put(field::RAMDISK, INITRAMFS);
    put(field::RAMDISK_LEN, initramfs_len);
    put(field::COMMAND_LINE, PARAMS + PARAMS_LEN as u32);
    let map = [(0, LOW_END), (HIGH, RAM)];
    for (entry, (start, end)) in map.into_iter().enumerate() {
        // Start and length have 64 bits.
        let at = field::E820_TABLE + entry * 20;
        put(at, start);
        put(at + 8, end - start);
        put(at + 16, USABLE);
    }
    params[field::E820_ENTRIES] = map.len() as u8;
    params.extend(command_line.as_bytes());
    params.push(0);
    Ok(params)
}

fn word(kernel: &[u8], at: usize) -> Result<u32> {
    let bytes = kernel.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(*bytes.context("the kernel ends within its header")?))
}

/// Takes the CPU from its reset into 32-bit protected mode and to the kernel.
fn rom() -> Vec<u8> {
    let mut rom = vec![0; ROM_LEN];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    put(TABLE, &SEGMENTS.map(u64::to_le_bytes).concat());
    put(TABLE_POINTER, &(size_of_val(&SEGMENTS) as u16 - 1).to_le_bytes());
    put(TABLE_POINTER + 2, &(ROM + TABLE as u32).to_le_bytes());
    // A jump counts from its end.
    let [low, high] = (REAL as u16).wrapping_sub(RESET as u16 + 3).to_le_bytes();
    put(RESET, &[0xe9, low, high]); // jmp REAL
    let [low, high, ..] = (ROM + TABLE_POINTER as u32).to_le_bytes();
    let [p0, p1, p2, p3] = (ROM + PROTECTED as u32).to_le_bytes();
    let real = [
        0x2e, 0x66, 0x0f, 0x01, 0x16, low, high, // lgdt cs:[TABLE_POINTER]
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x0c, 0x01, // or al, 1
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0x66, 0xea, p0, p1, p2, p3, CODE, 0x00, // jmp dword CODE:PROTECTED
    ];
    put(REAL, &real);
    let [p0, p1, p2, p3] = PARAMS.to_le_bytes();
    let [k0, k1, k2, k3] = KERNEL.to_le_bytes();
    let protected = [
        0xb8, DATA, 0x00, 0x00, 0x00, // mov eax, DATA
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xc0, // mov es, ax
        0x8e, 0xd0, // mov ss, ax
        0xbe, p0, p1, p2, p3, // mov esi, PARAMS
        0xb8, k0, k1, k2, k3, // mov eax, KERNEL
        0xff, 0xe0, // jmp eax
    ];
    put(PROTECTED, &protected);
    rom
}
