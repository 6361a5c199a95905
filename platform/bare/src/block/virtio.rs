//! A virtio block device: it reads by itself while the cores compute.

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use rill::seams::{StorageError, StorageErrorKind};
use rill_bare::storage::{BLOCK, Driver, Finished};
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PAGE_SIZE, PhysAddr};

use super::NoDevice;
use crate::board::{VIRTIO, VIRTIO_INTERRUPT, VIRTIO_SLOTS, VIRTIO_STRIDE};
use crate::{cpu, interrupts};

/// Pieces at once: a queue of 16 has room for five without the indirect descriptors that a device
/// may lack.
const DEPTH: usize = 5;
/// `EIO`, `EOPNOTSUPP`: what the device said, in the numbers that Linux has for it.
const IO_ERROR: i32 = 5;
const NOT_SUPPORTED: i32 = 95;

/// The first device of this type, if there is one, and its interrupt.
pub fn find(wanted: DeviceType) -> Option<(MmioTransport<'static>, u32)> {
    (0..VIRTIO_SLOTS).find_map(|slot| {
        let header = NonNull::new((VIRTIO + slot * VIRTIO_STRIDE) as *mut VirtIOHeader)?;
        // SAFETY: the board's file says that registers of a virtio slot are there, mapped as device
        // memory; a device is used by one driver only, because each looks for a type of its own.
        let transport = unsafe { MmioTransport::new(header, VIRTIO_STRIDE) }.ok()?;
        if transport.device_type() == wanted {
            return Some((transport, VIRTIO_INTERRUPT + slot as u32));
        }
        // Dropping the transport would reset a device that another driver uses.
        core::mem::forget(transport);
        None
    })
}

/// The device.
pub struct Disk {
    /// `None` only while it is started anew.
    device: Option<VirtIOBlk<Pages, MmioTransport<'static>>>,
    blocks: u64,
    /// The device reads and writes here, so they never move.
    flights: Box<[Flight; DEPTH]>,
}

/// A piece in the hands of the device.
#[derive(Default)]
struct Flight {
    request: BlkReq,
    response: BlkResp,
    /// The device's name for it, and where its bytes go.
    under_way: Option<(u16, NonNull<[u8]>)>,
}

/// Finds the device and starts it.
pub fn open() -> Result<Disk, NoDevice> {
    let (transport, interrupt) = find(DeviceType::Block).ok_or(NoDevice)?;
    let device = VirtIOBlk::new(transport).map_err(|_| NoDevice)?;
    interrupts::enable(interrupt);
    let mut disk = Disk { blocks: device.capacity(), device: None, flights: Box::default() };
    disk.adopt(device);
    Ok(disk)
}

impl Disk {
    fn adopt(&mut self, mut device: VirtIOBlk<Pages, MmioTransport<'static>>) {
        device.enable_interrupts();
        self.device = Some(device);
    }
}

fn error(error: Error) -> StorageError {
    match error {
        Error::Unsupported => {
            StorageError { kind: StorageErrorKind::Permanent, code: NOT_SUPPORTED }
        }
        _ => StorageError { kind: StorageErrorKind::Transient, code: IO_ERROR },
    }
}

impl Driver for Disk {
    fn name(&self) -> &'static str {
        "virtio"
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    unsafe fn start(
        &mut self,
        slot: usize,
        block: u64,
        mut into: NonNull<[u8]>,
    ) -> Result<(), StorageError> {
        let gone = StorageError { kind: StorageErrorKind::Transient, code: IO_ERROR };
        let device = self.device.as_mut().ok_or(gone)?;
        let flight = &mut self.flights[slot];
        assert!(flight.under_way.is_none() && into.len() >= BLOCK);
        // SAFETY: the caller lends the bytes; request and response lie in a box and are not used
        // until the piece is complete or the device has been reset.
        let token = unsafe {
            device.read_blocks_nb(
                block as usize,
                &mut flight.request,
                into.as_mut(),
                &mut flight.response,
            )
        };
        flight.under_way = Some((token.map_err(error)?, into));
        Ok(())
    }

    fn poll(&mut self) -> Option<Finished> {
        let device = self.device.as_mut()?;
        let token = device.peek_used()?;
        let is_it = |flight: &Flight| flight.under_way.is_some_and(|(name, _)| name == token);
        let slot = self.flights.iter().position(is_it)?;
        let flight = &mut self.flights[slot];
        let (_, mut into) = flight.under_way.take()?;
        // SAFETY: these are what `start` passed for this token, and the device is done with them.
        let result = unsafe {
            device.complete_read_blocks(token, &flight.request, into.as_mut(), &mut flight.response)
        };
        Some(Finished { slot, result: result.map_err(error) })
    }

    fn rest(&mut self) {
        cpu::rest(1000);
        if let Some(device) = &mut self.device {
            device.ack_interrupt();
        }
    }

    fn reset(&mut self) {
        // Dropping the driver resets the device, which then forgets every buffer.
        self.device = None;
        self.flights.iter_mut().for_each(|flight| flight.under_way = None);
        let device =
            find(DeviceType::Block).and_then(|(transport, _)| VirtIOBlk::new(transport).ok());
        if let Some(device) = device {
            self.adopt(device);
        }
    }
}

/// Pages that devices share with the program: the queues of a disk and of a log.
pub struct Pages;

const PAGES: usize = 6;

#[repr(C, align(4096))]
struct Pool(core::cell::UnsafeCell<[[u8; PAGE_SIZE]; PAGES]>);

// SAFETY: a page belongs to whoever took it by its flag in `TAKEN`.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(core::cell::UnsafeCell::new([[0; PAGE_SIZE]; PAGES]));
static TAKEN: [AtomicBool; PAGES] = [const { AtomicBool::new(false) }; PAGES];

// SAFETY: pages come from a pool, aligned, zeroed, each given out once until it is returned; memory
// is mapped to itself and the devices see the same bytes as the caches.
unsafe impl Hal for Pages {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let free = |from: &usize| {
            TAKEN[*from..*from + pages].iter().all(|taken| !taken.load(Ordering::Acquire))
        };
        let Some(from) = (0..=PAGES.saturating_sub(pages)).find(free) else {
            // Address 0 says that there is no memory.
            return (0, NonNull::dangling());
        };
        TAKEN[from..from + pages].iter().for_each(|taken| taken.store(true, Ordering::Release));
        // SAFETY: the pages were free and are inside the pool.
        let start = unsafe {
            let start = POOL.0.get().cast::<u8>().add(from * PAGE_SIZE);
            start.write_bytes(0, pages * PAGE_SIZE);
            NonNull::new_unchecked(start)
        };
        (start.addr().get() as PhysAddr, start)
    }

    unsafe fn dma_dealloc(_: PhysAddr, start: NonNull<u8>, pages: usize) -> i32 {
        let from = (start.addr().get() - POOL.0.get().addr()) / PAGE_SIZE;
        TAKEN[from..from + pages].iter().for_each(|taken| taken.store(false, Ordering::Release));
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("no device lies at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.addr().get() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
