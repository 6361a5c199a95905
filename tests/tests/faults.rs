//! A device that fails: the error names the page, nothing wrong is computed, and the sequence goes
//! on when the device does.

use rill::experts::PageFault;
use rill::image::{Image, ImageError, PAGE_ALIGN, Section, checksum};
use rill::seams::{Event, Events, Fault, RamDisk, StorageErrorKind, World};
use rill::sequence::SequenceError;
use rill_tests::kiosk;
use rill_tests::reference::cases;
use rill_tests::rig::{Rig, Setting, open};

/// A rig with few slots, so that every token reads pages.
fn rig() -> Rig {
    let setting = Setting { slots: Some(6), ..Setting::default() };
    Rig::new(kiosk::default_image(), setting).unwrap()
}

/// The error that computing the first case ends with.
fn failure(rig: &mut Rig) -> SequenceError {
    rig.logits(&cases()[0].ids).unwrap_err()
}

#[test]
fn a_dead_byte_is_named_and_the_session_goes_on_elsewhere() {
    let ids = &cases()[0].ids;
    let mut rig = rig();
    let expected = rig.logits(ids).unwrap();
    let wanted = rig.events.events.iter().find_map(|event| match event {
        Event::Miss { page } => Some(*page),
        _ => None,
    });
    let page = wanted.expect("something was read");
    let image = open(kiosk::default_image()).unwrap();
    let mut rig = self::rig();
    rig.disk.set_fault(Fault::DeadByte(image.page_offset(page) + 5000));
    let SequenceError::Page(error) = failure(&mut rig) else { panic!("a page fails") };
    assert_eq!((error.page, error.offset), (page, image.page_offset(page)));
    let PageFault::Storage(device) = error.fault else { panic!("the device fails") };
    assert_eq!(device.kind, StorageErrorKind::Permanent);
    assert!(error.to_string().contains(&format!("page {page}")));
    assert!(error.to_string().contains(&format!("offset {}", error.offset)));

    // What the page was wanted for is still to be computed: all is well when the device is.
    rig.disk.set_fault(Fault::None);
    let pending = rig.session.tokens().len();
    assert_eq!(rig.session.tokens(), ids);
    rig.with(|session, world| while session.compute(world).unwrap() {});
    assert!(rig.session.logits() == *expected.last().unwrap());
    rig.session.append(&[1]).unwrap();
    assert_eq!(rig.session.tokens().len(), pending + 1);
    assert!(rig.logits(ids).unwrap() == expected);
}

/// Wants a batch to end when it is asked after so many other times.
struct Stopper(u32);

impl Events for Stopper {
    fn hear(&mut self, _: Event) {}

    fn wants_stop(&mut self) -> bool {
        let stops = self.0 == 0;
        self.0 = self.0.saturating_sub(1);
        stops
    }
}

#[test]
fn a_batch_that_is_stopped_anywhere_is_still_to_be_computed() {
    let ids = &cases()[0].ids[..];
    let expected = rig().logits(ids).unwrap();
    let mut stopped = 0;
    for after in 0.. {
        let mut rig = rig();
        rig.session.append(ids).unwrap();
        let outcome = rig.with(|session, world| {
            let mut stopper = Stopper(after);
            let World { storage, parallel, clock, .. } = world;
            let (parallel, clock) = (*parallel, *clock);
            session.compute(&mut World {
                storage: &mut **storage,
                parallel,
                clock,
                events: &mut stopper,
            })
        });
        match outcome {
            Ok(_) => break,
            Err(error) => assert_eq!(error, SequenceError::Stopped),
        }
        stopped += 1;
        assert_eq!(rig.session.tokens(), ids);
        rig.with(|session, world| while session.compute(world).unwrap() {});
        assert!(rig.session.logits() == *expected.last().unwrap(), "stopped after {after}");
    }
    // In each of ten layers, and while pages of the MoE layers are waited for.
    assert!(stopped > 18, "{stopped}");
}

#[test]
fn hiccups_outside_the_pages_are_passed_over() {
    let sound = open(kiosk::default_image()).unwrap();
    let opened = (0..32).filter(|&seed| {
        // One read in three fails: five in a row about once in 240 times.
        let mut disk = RamDisk::new(kiosk::default_image(), seed);
        disk.set_fault(Fault::Transient(3));
        match Image::open(&mut disk, &mut [0; PAGE_ALIGN]) {
            Ok(image) => image == sound,
            Err(ImageError::Storage(_, error)) => {
                assert_eq!(error.kind, StorageErrorKind::Transient);
                false
            }
            Err(error) => panic!("{error}"),
        }
    });
    let opened = opened.count();
    assert!(opened >= 30, "{opened} of 32 images are opened");
}

#[test]
fn wrong_bytes_are_read_again_and_never_used() {
    let ids = &cases()[0].ids;
    let expected = rig().logits(ids).unwrap();
    let mut rig = rig();
    rig.disk.set_fault(Fault::FlippedBit(20));
    assert!(rig.logits(ids).unwrap() == expected);
    assert!(rig.session.stats().prompt.cache.retries > 0);
    let retried = |event: &Event| matches!(event, Event::Retry { error: None, .. });
    assert!(rig.events.events.iter().any(retried));

    rig.disk.set_fault(Fault::FlippedBit(1));
    let SequenceError::Page(error) = failure(&mut rig) else { panic!("a page fails") };
    assert_eq!(error.fault, PageFault::Checksum);
    // Of other pages that arrived wrong, nothing is left either.
    rig.disk.set_fault(Fault::None);
    assert!(rig.logits(ids).unwrap() == expected);
}

#[test]
fn a_file_that_was_cut_while_running_is_an_error() {
    let image = open(kiosk::default_image()).unwrap();
    let mut rig = rig();
    rig.disk.set_fault(Fault::CutAt(image.header.span(Section::Pages).offset + 1));
    let SequenceError::Page(error) = failure(&mut rig) else { panic!("a page fails") };
    let PageFault::Storage(device) = error.fault else { panic!("the device fails") };
    assert_eq!(device.kind, StorageErrorKind::PastEnd);
}

#[test]
fn a_file_that_was_replaced_while_running_is_an_error() {
    // The same model packed with other experts: the pages' checksums differ.
    let other = kiosk::image("kiosk-16m", kiosk::Q8);
    assert_ne!(checksum(other), checksum(kiosk::default_image()));
    let mut rig = rig();
    rig.disk.replace(other);
    let SequenceError::Page(error) = failure(&mut rig) else { panic!("a page fails") };
    assert_eq!(error.fault, PageFault::Checksum);
}
