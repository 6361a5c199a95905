//! The functions of the C library, called with what is right and what is not.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

use proptest::prelude::*;
use rill_ffi::Model;
use rill_ffi::choice::{
    End, Token, rill_accept, rill_compute, rill_logits, rill_sample, rill_step,
};
use rill_ffi::conversation::{
    Biased, Message, rill_advance, rill_append_message, rill_append_text, rill_append_tokens,
    rill_begin_answer, rill_conversation_free, rill_conversation_new, rill_cut, rill_encode,
    rill_fork, rill_get_sampling, rill_piece, rill_set_biases, rill_set_messages,
    rill_set_sampling, rill_tokens,
};
use rill_ffi::keep::{SavedReader, SavedWriter, rill_restore, rill_save};
use rill_ffi::open::{
    Info, Planned, RILL_PARTS, Statistics, rill_close, rill_error_text, rill_get_info,
    rill_get_stats, rill_open_file, rill_open_memory, rill_open_reader, rill_part_name,
    rill_plan_file, rill_plan_memory, rill_plan_reader, rill_stop,
};
use rill_ffi::options::{Cores, Flag, Options, Part, RILL_ABI, Reader, SamplingSettings};
use rill_ffi::status::{Failed, Status};
use rill_tests::kiosk;
use rill_tests::rig::{Rig, Setting};

/// Memory of a program in C: not zero, and at no special address.
struct Block(Vec<u8>);

impl Block {
    fn new(bytes: usize) -> Self {
        Self(vec![0xa5; bytes + 1])
    }

    fn start(&mut self) -> *mut u8 {
        let start = self.0[1..].as_mut_ptr();
        assert!(!start.cast::<u16>().is_aligned());
        start
    }

    fn len(&self) -> usize {
        self.0.len() - 1
    }
}

/// A model in memory that is little for it.
struct Open {
    model: *mut Model,
    arena: Block,
}

fn options(conversations: u32) -> Options {
    Options { context: 96, conversations, threads: 1, ..Options::default() }
}

fn least(image: &[u8], options: &Options) -> u64 {
    let mut plan = empty_plan();
    // SAFETY: all pointers are good.
    let status =
        unsafe { rill_plan_memory(image.as_ptr(), image.len(), options, 0, &mut plan, null_mut()) };
    assert_eq!((status, plan.used), (Status::Ok, 0));
    assert!(plan.least < plan.most);
    plan.least
}

fn empty_plan() -> Planned {
    // SAFETY: all of its fields are integers.
    unsafe { std::mem::zeroed() }
}

impl Open {
    fn new(options: &Options, spare: u64) -> Self {
        Self::of(kiosk::default_image(), options, spare)
    }

    fn of(image: &'static [u8], options: &Options, spare: u64) -> Self {
        let mut arena = Block::new((least(image, options) + spare) as usize);
        let (mut model, mut error) = (null_mut(), Failed { status: Status::Ok, text: [0; 252] });
        let (start, len) = (arena.start(), arena.len());
        // SAFETY: all pointers are good, and the arena outlives the model.
        let status = unsafe {
            let (image, image_len) = (image.as_ptr(), image.len());
            rill_open_memory(image, image_len, options, start, len, &mut model, &mut error)
        };
        assert_eq!(status, Status::Ok, "{}", c_text(error.text.as_ptr()));
        Self { model, arena }
    }

    fn conversation(&self) -> u64 {
        let mut conversation = 0;
        // SAFETY: both pointers are good.
        let status = unsafe { rill_conversation_new(self.model, &mut conversation) };
        assert_eq!(status, Status::Ok);
        conversation
    }

    fn tokens(&self, conversation: u64) -> Option<(Vec<u32>, usize)> {
        let (mut tokens, mut len, mut computed) = (null(), 0, 0);
        // SAFETY: all pointers are good, and nothing is called before the tokens are copied.
        unsafe {
            match rill_tokens(self.model, conversation, &mut tokens, &mut len, &mut computed) {
                Status::Ok => Some((std::slice::from_raw_parts(tokens, len).to_vec(), computed)),
                _ => None,
            }
        }
    }

    fn logits(&self, conversation: u64) -> Vec<u32> {
        let (mut logits, mut len) = (null(), 0);
        // SAFETY: all pointers are good, and nothing is called before the logits are copied.
        unsafe {
            let status = rill_logits(self.model, conversation, &mut logits, &mut len);
            assert_eq!(status, Status::Ok, "{}", self.error());
            let logits: &[f32] = std::slice::from_raw_parts(logits, len);
            logits.iter().map(|logit| logit.to_bits()).collect()
        }
    }

    fn append(&self, conversation: u64, tokens: &[u32]) -> Status {
        // SAFETY: all pointers are good.
        unsafe { rill_append_tokens(self.model, conversation, tokens.as_ptr(), tokens.len()) }
    }

    /// Logits after these tokens, in a new conversation.
    fn logits_of(&self, tokens: &[u32]) -> Vec<u32> {
        let conversation = self.conversation();
        assert_eq!(self.append(conversation, tokens), Status::Ok);
        self.logits(conversation)
    }

    /// What tokens stand for, but for those that begin a conversation.
    fn text(&self, tokens: &[u32]) -> String {
        let mut text = Vec::new();
        for &token in tokens {
            let (mut bytes, mut len) = (null(), 0);
            // SAFETY: all pointers are good, and nothing is called before the bytes are copied.
            unsafe {
                assert_eq!(rill_piece(self.model, token, &mut bytes, &mut len), Status::Ok);
                text.extend_from_slice(std::slice::from_raw_parts(bytes.cast::<u8>(), len));
            }
        }
        String::from_utf8(text).unwrap()
    }

    fn step(&self, conversation: u64) -> (Status, Token) {
        let mut token = Token { id: 0, end: End::None, text: null(), len: 0 };
        // SAFETY: all pointers are good.
        (unsafe { rill_step(self.model, conversation, &mut token) }, token)
    }

    fn error(&self) -> String {
        // SAFETY: the model's memory is there.
        c_text(unsafe { rill_error_text(self.model) })
    }

    fn close(&self) -> Status {
        // SAFETY: the model's memory is there.
        unsafe { rill_close(self.model) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // It may be closed already. The arena is given back afterwards.
        let _ = self.close();
        assert!(self.arena.len() > 0);
    }
}

fn c_text(text: *const c_char) -> String {
    // SAFETY: the library's texts end in a zero.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

#[test]
fn logits_are_those_of_the_engine_however_they_were_come_by() {
    let prompt: Vec<u32> = (300..340).collect();
    let mut rig = Rig::new(kiosk::default_image(), Setting::default()).unwrap();
    let all = rig.logits(&prompt).unwrap();
    let bits = |row: &Vec<f32>| row.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    let expected: Vec<_> = all.iter().map(bits).collect();

    let open = Open::new(&options(2), 0);
    let whole = open.conversation();
    assert_eq!(open.append(whole, &prompt), Status::Ok);
    assert_eq!(open.logits(whole), expected[39]);
    let single = open.conversation();
    for (token, expected) in prompt.iter().zip(&expected) {
        assert_eq!(open.append(single, &[*token]), Status::Ok);
        assert_eq!(open.logits(single), *expected);
    }
    // Back to places of all kinds, and on from there.
    for len in [39, 20, 1, 33, 0] {
        // SAFETY: the model is there.
        assert_eq!(unsafe { rill_cut(open.model, whole, len) }, Status::Ok);
        let have = open.tokens(whole).unwrap().0.len();
        assert_eq!(have, len);
        if len > 0 {
            assert_eq!(open.logits(whole), expected[len - 1]);
        }
        assert_eq!(open.append(whole, &prompt[len..]), Status::Ok);
        assert_eq!(open.logits(whole), expected[39]);
    }
    // A copy goes its own way.
    let mut copy = 0;
    // SAFETY: all pointers are good.
    unsafe {
        assert_eq!(rill_fork(open.model, whole, &mut copy), Status::Conversations);
        assert_eq!(rill_conversation_free(open.model, single), Status::Ok);
        assert_eq!(rill_fork(open.model, whole, &mut copy), Status::Ok);
    }
    assert_eq!(open.logits(copy), expected[39]);
    assert_eq!(open.append(copy, &[7]), Status::Ok);
    assert_eq!(open.tokens(whole).unwrap().0, prompt);
    assert_eq!(open.tokens(single), None);
}

#[test]
fn a_conversation_that_was_cut_goes_on_as_one_that_never_was_longer() {
    let open = Open::new(&options(2), 0);
    let say = |conversation, role: u32, text: &str| {
        // SAFETY: all pointers are good.
        let status = unsafe {
            let (text, len) = (text.as_ptr().cast(), text.len());
            rill_append_message(open.model, conversation, role, text, len)
        };
        assert_eq!(status, Status::Ok);
    };
    let [cut, plain] = [open.conversation(), open.conversation()];
    say(cut, 0, "Be brief.");
    let after_instruction = open.tokens(cut).unwrap().0.len();
    say(cut, 1, "Where is the lift?");
    // SAFETY: the model is there.
    assert_eq!(unsafe { rill_begin_answer(open.model, cut) }, Status::Ok);
    while open.step(cut).1.end == End::None {}
    // SAFETY: the model is there.
    assert_eq!(unsafe { rill_cut(open.model, cut, after_instruction) }, Status::Ok);
    say(plain, 0, "Be brief.");
    for conversation in [cut, plain] {
        say(conversation, 1, "When do you close?");
    }
    assert_eq!(open.tokens(cut).unwrap().0, open.tokens(plain).unwrap().0);
    assert_eq!(open.logits(cut), open.logits(plain));
}

/// Reads from a slice, and fails as it is told.
struct Bytes {
    bytes: &'static [u8],
    /// What a read returns in the place of the next ones.
    fail: Vec<i32>,
    model: *mut Model,
    inside: Option<Status>,
}

extern "C" fn read(context: *mut c_void, offset: u64, into: *mut c_void, len: usize) -> i32 {
    // SAFETY: it is the test's own, which is in a call just now.
    let bytes = unsafe { &mut *context.cast::<Bytes>() };
    if let Some(code) = bytes.fail.pop() {
        return code;
    }
    if !bytes.model.is_null() {
        // SAFETY: the model is there.
        bytes.inside = Some(unsafe { rill_get_stats(bytes.model, null_mut()) });
    }
    let source = &bytes.bytes[offset as usize..offset as usize + len];
    // SAFETY: there is room for `len` bytes.
    unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), into.cast(), len) };
    0
}

#[test]
fn an_image_that_the_caller_reads_may_fail_and_recover() {
    let image = kiosk::default_image();
    let mut bytes = Bytes { bytes: image, fail: Vec::new(), model: null_mut(), inside: None };
    let reader = Reader {
        abi: RILL_ABI,
        alignment: 512,
        len: image.len() as u64,
        read: Some(read),
        context: (&raw mut bytes).cast(),
    };
    let options = Options { flags: Flag::NoLookahead as u32, ..options(1) };
    let mut arena = Block::new(least(image, &options) as usize);
    let (start, len) = (arena.start(), arena.len());
    let mut model = null_mut();
    let mut plan = empty_plan();
    // SAFETY: all pointers are good, and outlive the model.
    unsafe {
        let status = rill_plan_reader(&reader, &options, len as u64, &mut plan, null_mut());
        assert_eq!((status, plan.least), (Status::Ok, len as u64));
        assert_eq!(plan.parts.iter().sum::<u64>(), plan.used);
        bytes.fail = vec![5];
        let status = rill_open_reader(&reader, &options, start, len, &mut model, null_mut());
        assert_eq!(status, Status::Read);
        bytes.fail = vec![1, 1];
        let status = rill_open_reader(&reader, &options, start, len, &mut model, null_mut());
        assert_eq!(status, Status::Ok);
    }
    let open = Open { model, arena };
    let conversation = open.conversation();
    assert_eq!(open.append(conversation, &[300, 301, 302]), Status::Ok);
    bytes.fail = vec![7; 8];
    bytes.model = model;
    assert_eq!(open.step(conversation).0, Status::Read);
    assert!(open.error().contains("device code 7"), "{}", open.error());
    bytes.fail.clear();
    assert_eq!(open.step(conversation).0, Status::Ok);
    assert_eq!(bytes.inside, Some(Status::Busy));
}

#[test]
fn an_expert_that_is_not_what_was_packed_is_the_images_fault() {
    let mut image = kiosk::default_image().to_vec();
    let last = image.len() - 1;
    // What is at the end is read when it is needed.
    image[last - (64 << 10)..].fill(0x55);
    let open = Open::of(image.leak(), &options(1), 0);
    let conversation = open.conversation();
    let failed = (300..390_u32).find_map(|token| {
        assert_eq!(open.append(conversation, &[token]), Status::Ok);
        Some(open.step(conversation).0).filter(|status| *status != Status::Ok)
    });
    assert_eq!(failed, Some(Status::Image), "{}", open.error());
}

#[test]
fn an_image_may_be_a_part_of_a_file() {
    let image = kiosk::default_image();
    let mut head = vec![0; 16 << 10];
    // As an ExecuTorch program begins whose segments are the image.
    head[4..12].copy_from_slice(b"ET12eh00");
    head[12..16].copy_from_slice(&32_u32.to_le_bytes());
    for (at, word) in [(16, 999), (24, 16 << 10), (32, image.len() as u64)] {
        head[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [&head, image].concat()).unwrap();
    let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
    let options = options(1);
    let expected = Open::new(&options, 0).logits_of(&[300, 301, 302]);
    for offset in [0, 16 << 10] {
        let mut arena = Block::new(least(image, &options) as usize);
        let (start, len) = (arena.start(), arena.len());
        let (mut model, mut plan) = (null_mut(), empty_plan());
        let path = path.as_ptr();
        // SAFETY: all pointers are good, and the arena outlives the model.
        unsafe {
            let status = rill_plan_file(path, offset, &options, 0, &mut plan, null_mut());
            assert_eq!((status, plan.least), (Status::Ok, len as u64), "at {offset}");
            let status = rill_open_file(path, offset, &options, start, len, &mut model, null_mut());
            assert_eq!(status, Status::Ok, "at {offset}");
        }
        assert_eq!(Open { model, arena }.logits_of(&[300, 301, 302]), expected, "at {offset}");
    }
}

/// Computes the parts last to first, and one that there is not.
extern "C" fn backwards(context: *mut c_void, parts: usize, part: Part, work: *mut c_void) {
    for index in (0..=parts).rev() {
        part(work, index);
    }
    // SAFETY: it is the test's own, which is in a call just now.
    unsafe { *context.cast::<usize>() += parts };
}

#[test]
fn cores_of_the_callers_compute_what_the_librarys_do() {
    let expected = Open::new(&options(1), 0).logits_of(&[300, 301, 302]);
    let mut ran = 0_usize;
    let cores = Cores { width: 3, run: Some(backwards), context: (&raw mut ran).cast() };
    let open = Open::new(&Options { cores: &cores, ..options(1) }, 0);
    assert_eq!(open.logits_of(&[300, 301, 302]), expected);
    drop(open);
    assert!(ran > 0);
    for wrong in [Cores { width: 0, ..cores }, Cores { run: None, ..cores }] {
        let image = kiosk::default_image();
        let options = Options { cores: &wrong, ..options(1) };
        let mut arena = Block::new(least(image, &options) as usize);
        let (start, len, mut model) = (arena.start(), arena.len(), null_mut());
        let (image, image_len) = (image.as_ptr(), image.len());
        // SAFETY: all pointers are good.
        let status = unsafe {
            rill_open_memory(image, image_len, &options, start, len, &mut model, null_mut())
        };
        assert_eq!((status, model), (Status::Argument, null_mut()));
    }
}

#[test]
fn a_template_writes_what_the_messages_are() {
    let template = "{% for message in messages %}\
        {% if message.content == 'No.' %}{{ raise_exception('not that') }}{% endif %}\
        [{{ message.role }}] {{ message.content }}\n{% endfor %}";
    let open = Open::of(kiosk::with_template(template), &options(1), 0);
    let conversation = open.conversation();
    let set = |messages: &[(u32, &str)]| {
        let message = |&(role, text): &(u32, &str)| Message {
            role,
            text: text.as_ptr().cast(),
            len: text.len(),
        };
        let messages: Vec<_> = messages.iter().map(message).collect();
        // SAFETY: all pointers are good.
        unsafe { rill_set_messages(open.model, conversation, messages.as_ptr(), messages.len()) }
    };
    assert_eq!(set(&[(0, "Be brief."), (1, "Who are you?")]), Status::Ok);
    let expected = "[system] Be brief.\n[user] Who are you?\n";
    let (tokens, computed) = open.tokens(conversation).unwrap();
    assert_eq!((open.text(&tokens), computed), (expected.to_owned(), 0));
    open.logits(conversation);
    assert_eq!(set(&[(0, "Be brief."), (1, "Who am I?")]), Status::Ok);
    let tokens = open.tokens(conversation).unwrap().0;
    assert_eq!(open.text(&tokens), "[system] Be brief.\n[user] Who am I?\n");
    assert_eq!(set(&[(3, "Who?")]), Status::Argument);
    assert_eq!(open.tokens(conversation).unwrap().0, tokens);
    assert_eq!(set(&[(1, "No.")]), Status::Template);
    assert!(open.error().contains("not that"), "{}", open.error());
    assert!(open.tokens(conversation).unwrap().0.is_empty());
}

#[test]
fn messages_that_do_not_fit_leave_an_empty_conversation() {
    let open = Open::new(&options(1), 0);
    let conversation = open.conversation();
    let long = "a very long question ".repeat(60);
    let message = |text: &str| Message { role: 1, text: text.as_ptr().cast(), len: text.len() };
    let messages = [message("Who are you?"), message(&long)];
    // SAFETY: all pointers are good.
    let status = unsafe { rill_set_messages(open.model, conversation, messages.as_ptr(), 2) };
    assert_eq!(status, Status::Context);
    assert!(open.tokens(conversation).unwrap().0.is_empty());
}

#[test]
fn every_part_of_an_arena_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> =
        (0..RILL_PARTS).map(|part| c_text(rill_part_name(part))).collect();
    assert_eq!(names.len(), RILL_PARTS);
    assert!(!names.contains(""));
    assert!(rill_part_name(RILL_PARTS).is_null() && rill_part_name(usize::MAX).is_null());
}

extern "C" fn keep(context: *mut c_void, bytes: *const c_void, len: usize) -> i32 {
    // SAFETY: both are good within the call.
    let (kept, bytes) = unsafe {
        (&mut *context.cast::<Vec<u8>>(), std::slice::from_raw_parts(bytes.cast::<u8>(), len))
    };
    kept.extend_from_slice(bytes);
    0
}

extern "C" fn give(context: *mut c_void, into: *mut c_void, len: usize) -> i32 {
    // SAFETY: both are good within the call.
    let (left, into) = unsafe {
        (&mut *context.cast::<&[u8]>(), std::slice::from_raw_parts_mut(into.cast::<u8>(), len))
    };
    let Some((now, later)) = left.split_at_checked(len) else { return 1 };
    into.copy_from_slice(now);
    *left = later;
    0
}

impl Open {
    fn save(&self, conversation: u64) -> Vec<u8> {
        let mut kept = Vec::<u8>::new();
        let context = (&raw mut kept).cast();
        let sink = SavedWriter { abi: RILL_ABI, write: Some(keep), context };
        // SAFETY: all pointers are good.
        assert_eq!(unsafe { rill_save(self.model, conversation, &sink) }, Status::Ok);
        kept
    }

    fn restore(&self, conversation: u64, mut kept: &[u8]) -> Status {
        let context = (&raw mut kept).cast();
        let source = SavedReader { abi: RILL_ABI, read: Some(give), context };
        // SAFETY: all pointers are good.
        unsafe { rill_restore(self.model, conversation, &source) }
    }
}

#[test]
fn a_conversation_is_kept_and_damage_is_found() {
    let open = Open::new(&options(1), 0);
    let conversation = open.conversation();
    assert_eq!(open.append(conversation, &[300, 301, 302, 303]), Status::Ok);
    let logits = open.logits(conversation);
    let kept = open.save(conversation);

    let other = Open::new(&options(1), 1 << 20);
    let restored = other.conversation();
    assert_eq!(other.restore(restored, &kept), Status::Ok);
    assert_eq!(other.tokens(restored).unwrap(), (vec![300, 301, 302, 303], 4));
    assert_eq!(other.logits(restored), logits);

    for at in (0..kept.len()).step_by(kept.len() / 97 + 1).chain([kept.len() - 1]) {
        let mut damaged = kept.clone();
        damaged[at] ^= 0x10;
        let status = other.restore(restored, &damaged);
        assert!(
            [Status::Saved, Status::Context, Status::Callback].contains(&status),
            "byte {at}: {status:?}"
        );
        assert_ne!(other.restore(restored, &kept[..at]), Status::Ok);
    }
    let int8 = Open::new(&Options { kv: 1, ..options(1) }, 0);
    assert_eq!(int8.restore(int8.conversation(), &kept), Status::Saved);
}

#[test]
fn what_is_wrong_is_said() {
    let image = kiosk::default_image();
    let (bytes, len) = (image.as_ptr(), image.len());
    let mut error = Failed { status: Status::Ok, text: [0; 252] };
    let mut plan = empty_plan();
    let good = options(1);
    let mut wrong = |options: Options, arena: u64| {
        // SAFETY: all pointers are good.
        let status =
            unsafe { rill_plan_memory(bytes, len, &options, arena, &mut plan, &mut error) };
        assert_eq!(status, error.status);
        (status, c_text(error.text.as_ptr()), plan.least)
    };
    assert_eq!(wrong(Options { abi: 0, ..good }, 0).0, Status::Abi);
    assert_eq!(wrong(Options { abi: RILL_ABI + 1, ..good }, 0).0, Status::Abi);
    assert_eq!(wrong(Options { kv: 2, ..good }, 0).0, Status::Argument);
    assert_eq!(wrong(Options { flags: 64, ..good }, 0).0, Status::Argument);
    assert_eq!(wrong(Options { context: u32::MAX, ..good }, 0).0, Status::Argument);
    assert_eq!(wrong(Options { conversations: u32::MAX, ..good }, 0).0, Status::Argument);
    let (status, text, least) = wrong(good, 1 << 20);
    assert_eq!(status, Status::Arena);
    assert!(least > 1 << 20 && text.contains(&least.to_string()), "{text}");

    let path = c"/nowhere.rill".as_ptr();
    // SAFETY: all pointers are good, or null.
    unsafe {
        assert_eq!(rill_plan_file(path, 0, &good, 0, &mut plan, &mut error), Status::Read);
        assert!(c_text(error.text.as_ptr()).contains("/nowhere.rill"));
        assert_eq!(rill_plan_file(path, 5, &good, 0, &mut plan, null_mut()), Status::Argument);
        assert_eq!(rill_plan_file(null(), 0, &good, 0, &mut plan, null_mut()), Status::Argument);
        assert_eq!(rill_plan_memory(null(), 9, &good, 0, &mut plan, null_mut()), Status::Argument);
        assert_eq!(
            rill_plan_memory(bytes, len, null(), 0, &mut plan, null_mut()),
            Status::Argument
        );
        assert_eq!(
            rill_plan_memory(bytes, len, &good, 0, null_mut(), null_mut()),
            Status::Argument
        );
        for cut in [0, 1, 255, 256, 32 << 10, len - 1] {
            let status = rill_plan_memory(bytes, cut, &good, 0, &mut plan, null_mut());
            assert_eq!(status, Status::Image, "{cut} bytes");
        }
    }
}

#[test]
fn a_stop_ends_the_next_computation_and_nothing_is_lost() {
    let open = Open::new(&options(1), 0);
    let conversation = open.conversation();
    assert_eq!(open.append(conversation, &[300, 301, 302]), Status::Ok);
    // SAFETY: the model is there.
    assert_eq!(unsafe { rill_stop(open.model) }, Status::Ok);
    assert_eq!(open.step(conversation).0, Status::Stopped);
    assert_eq!(open.tokens(conversation).unwrap().0, [300, 301, 302]);
    assert_eq!(open.step(conversation).0, Status::Ok);
}

#[test]
fn conversations_side_by_side_are_each_as_if_alone() {
    let prompts = ["Where is the lift?", "Who are you?", "When do you close?"];
    let ask = |open: &Open, conversation, prompt: &str| {
        let message = Message { role: 1, text: prompt.as_ptr().cast(), len: prompt.len() };
        // SAFETY: all pointers are good.
        let status = unsafe { rill_set_messages(open.model, conversation, &message, 1) };
        assert_eq!(status, Status::Ok);
    };
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| {
            let open = Open::new(&options(1), 0);
            let conversation = open.conversation();
            ask(&open, conversation, prompt);
            while open.step(conversation).1.end == End::None {}
            open.tokens(conversation).unwrap().0
        })
        .collect();
    let open = Open::new(&options(3), 0);
    let talks = prompts.map(|prompt| {
        let conversation = open.conversation();
        ask(&open, conversation, prompt);
        conversation
    });
    let mut going = talks.to_vec();
    while !going.is_empty() {
        let mut rows = 0;
        // SAFETY: all pointers are good.
        let status = unsafe { rill_advance(open.model, going.as_ptr(), going.len(), &mut rows) };
        assert_eq!(status, Status::Ok);
        assert!(rows > 0);
        going.retain(|&conversation| {
            let (tokens, computed) = open.tokens(conversation).unwrap();
            tokens.len() > computed || open.step(conversation).1.end == End::None
        });
    }
    let together = talks.map(|conversation| open.tokens(conversation).unwrap().0);
    assert_eq!(together.to_vec(), alone);
}

/// A call with the model, right or wrong. Conversations are chosen from those that were ever made, and
/// some that never were.
#[derive(Debug, Clone)]
enum Act {
    New,
    Free(usize),
    Fork(usize),
    Cut(usize, usize),
    Tokens(usize, Vec<u32>),
    Text(usize, Vec<u8>),
    Message(usize, u32, String),
    Messages(usize, Vec<(u32, String)>),
    Begin(usize),
    Compute(usize),
    Logits(usize),
    Step(usize),
    Sample(usize, Option<Vec<u32>>),
    Accept(usize, u32),
    Sampling(usize, [f32; 4]),
    Biases(usize, Vec<(u32, f32)>),
    Advance(Vec<usize>),
    Encode(String, usize),
    Piece(u32),
    Keep(usize, usize),
    Stop,
    /// With null in the place of all pointers.
    Null(usize),
    /// With something else in the place of the model.
    NoModel(usize),
    Close,
}

fn act() -> impl Strategy<Value = Act> {
    let at = || 0..6_usize;
    let text = || prop_oneof!["[a-z ]{0,20}", "\\PC{0,12}", Just("<|im_end|>".to_owned())];
    let ids = || prop::collection::vec(prop_oneof![9 => 0..4000_u32, 1 => any::<u32>()], 0..40);
    prop_oneof![
        4 => Just(Act::New),
        1 => at().prop_map(Act::Free),
        1 => at().prop_map(Act::Fork),
        2 => (at(), 0..100_usize).prop_map(|(a, b)| Act::Cut(a, b)),
        3 => (at(), ids()).prop_map(|(a, b)| Act::Tokens(a, b)),
        1 => (at(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(a, b)| Act::Text(a, b)),
        2 => (at(), text()).prop_map(|(a, b)| Act::Text(a, b.into_bytes())),
        2 => (at(), 0..4_u32, text()).prop_map(|(a, b, c)| Act::Message(a, b, c)),
        1 => (at(), prop::collection::vec((0..4_u32, text()), 0..4))
            .prop_map(|(a, b)| Act::Messages(a, b)),
        2 => at().prop_map(Act::Begin),
        1 => at().prop_map(Act::Compute),
        1 => at().prop_map(Act::Logits),
        4 => at().prop_map(Act::Step),
        1 => (at(), prop::option::of(prop::collection::vec(any::<u32>(), 0..130)))
            .prop_map(|(a, b)| Act::Sample(a, b)),
        1 => (at(), prop_oneof![0..4000_u32, any::<u32>()]).prop_map(|(a, b)| Act::Accept(a, b)),
        1 => (at(), prop::array::uniform4(prop_oneof![-1.0..3.0_f32, Just(f32::NAN)]))
            .prop_map(|(a, b)| Act::Sampling(a, b)),
        1 => (at(), prop::collection::vec((0..5000_u32, any::<f32>()), 0..5))
            .prop_map(|(a, b)| Act::Biases(a, b)),
        1 => prop::collection::vec(at(), 0..5).prop_map(Act::Advance),
        1 => (text(), 0..30_usize).prop_map(|(a, b)| Act::Encode(a, b)),
        1 => any::<u32>().prop_map(Act::Piece),
        1 => (at(), at()).prop_map(|(a, b)| Act::Keep(a, b)),
        1 => Just(Act::Stop),
        2 => (0..20_usize).prop_map(Act::Null),
        2 => (0..4_usize).prop_map(Act::NoModel),
        1 => Just(Act::Close),
    ]
}

impl Open {
    /// Calls, and says what came of it. `made` are the conversations that were ever made.
    fn call(&self, act: &Act, made: &mut Vec<u64>) -> Status {
        let model = self.model;
        let of = |at: &usize| made.get(*at).copied().unwrap_or([0, u64::MAX, 7 << 32][at % 3]);
        let (mut id, mut size, mut other) = (0_u32, 0_usize, 0_u64);
        let mut token = Token { id: 0, end: End::None, text: null(), len: 0 };
        let (mut floats, mut letters) = (null(), null());
        // SAFETY: pointers are good where they are not null; what was closed has its memory still.
        unsafe {
            match act {
                Act::New => {
                    let status = rill_conversation_new(model, &mut other);
                    made.extend((status == Status::Ok).then_some(other));
                    status
                }
                Act::Fork(at) => {
                    let status = rill_fork(model, of(at), &mut other);
                    made.extend((status == Status::Ok).then_some(other));
                    status
                }
                Act::Free(at) => rill_conversation_free(model, of(at)),
                Act::Cut(at, len) => rill_cut(model, of(at), *len),
                Act::Tokens(at, ids) => self.append(of(at), ids),
                Act::Text(at, text) => {
                    rill_append_text(model, of(at), text.as_ptr().cast(), text.len())
                }
                Act::Message(at, role, text) => {
                    rill_append_message(model, of(at), *role, text.as_ptr().cast(), text.len())
                }
                Act::Messages(at, said) => {
                    let message = |(role, text): &(u32, String)| Message {
                        role: *role,
                        text: text.as_ptr().cast(),
                        len: text.len(),
                    };
                    let messages: Vec<_> = said.iter().map(message).collect();
                    rill_set_messages(model, of(at), messages.as_ptr(), messages.len())
                }
                Act::Begin(at) => rill_begin_answer(model, of(at)),
                Act::Compute(at) => rill_compute(model, of(at), &mut size),
                Act::Logits(at) => rill_logits(model, of(at), &mut floats, &mut size),
                Act::Step(at) => rill_step(model, of(at), &mut token),
                Act::Sample(at, mask) => {
                    let start = mask.as_ref().map_or(null(), |mask| mask.as_ptr());
                    let words = mask.as_ref().map_or(0, Vec::len);
                    rill_sample(model, of(at), start, words, &mut id)
                }
                Act::Accept(at, id) => rill_accept(model, of(at), *id, &mut token),
                Act::Sampling(at, [temperature, top_p, min_p, repetition_penalty]) => {
                    let mut settings: SamplingSettings = std::mem::zeroed();
                    rill_get_sampling(model, &mut settings);
                    let settings = SamplingSettings {
                        temperature: *temperature,
                        top_p: *top_p,
                        min_p: *min_p,
                        repetition_penalty: *repetition_penalty,
                        ..settings
                    };
                    rill_set_sampling(model, of(at), &settings, 1)
                }
                Act::Biases(at, biases) => {
                    let bias = |&(id, bias): &(u32, f32)| Biased { id, bias };
                    let biases: Vec<_> = biases.iter().map(bias).collect();
                    rill_set_biases(model, of(at), biases.as_ptr(), biases.len())
                }
                Act::Advance(all) => {
                    let all: Vec<_> = all.iter().map(of).collect();
                    rill_advance(model, all.as_ptr(), all.len(), &mut size)
                }
                Act::Encode(text, room) => {
                    let mut ids = vec![0; *room];
                    let (text, len) = (text.as_ptr().cast(), text.len());
                    rill_encode(model, text, len, 0, ids.as_mut_ptr(), *room, &mut size)
                }
                Act::Piece(id) => rill_piece(model, *id, &mut letters, &mut size),
                Act::Keep(from, to) => {
                    let mut kept = Vec::<u8>::new();
                    let context = (&raw mut kept).cast();
                    let sink = SavedWriter { abi: RILL_ABI, write: Some(keep), context };
                    match rill_save(model, of(from), &sink) {
                        Status::Ok => self.restore(of(to), &kept),
                        status => status,
                    }
                }
                Act::Stop => rill_stop(model),
                Act::Null(which) => null_call(*which, model, of(&0)),
                Act::NoModel(which) => {
                    let mut copy = vec![0_u64; 4096];
                    let within = model.cast::<u8>().wrapping_add([8, 64][which % 2]).cast();
                    let nowhere = [null_mut(), copy.as_mut_ptr().cast(), within, within];
                    rill_step(nowhere[which % 4], of(&0), &mut token)
                }
                Act::Close => rill_close(model),
            }
        }
    }
}

/// A call without what it needs.
///
/// # Safety
/// The model's memory is there.
unsafe fn null_call(which: usize, model: *mut Model, of: u64) -> Status {
    // SAFETY: every other pointer is null.
    unsafe {
        match which {
            0 => rill_conversation_new(model, null_mut()),
            1 => rill_fork(model, of, null_mut()),
            2 => rill_append_tokens(model, of, null(), 3),
            3 => rill_append_text(model, of, null(), 3),
            4 => rill_append_message(model, of, 1, null(), 3),
            5 => rill_set_messages(model, of, null(), 3),
            6 => rill_compute(model, of, null_mut()),
            7 => rill_logits(model, of, null_mut(), null_mut()),
            8 => rill_step(model, of, null_mut()),
            9 => rill_sample(model, of, null(), 3, null_mut()),
            10 => rill_set_sampling(model, of, null(), 0),
            11 => rill_set_biases(model, of, null(), 3),
            12 => rill_advance(model, null(), 3, null_mut()),
            13 => rill_encode(model, null(), 3, 0, null_mut(), 3, null_mut()),
            14 => rill_piece(model, 0, null_mut(), null_mut()),
            15 => rill_save(model, of, null()),
            16 => rill_restore(model, of, null()),
            17 => rill_get_info(model, null_mut()),
            18 => rill_get_stats(model, null_mut()),
            _ => rill_get_sampling(model, null_mut()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_calls_in_any_order_end_in_a_status(acts in prop::collection::vec(act(), 1..50)) {
        let open = Open::new(&options(3), 0);
        let mut made = Vec::new();
        let mut live: Vec<u64> = Vec::new();
        let mut closed = false;
        for act in &acts {
            let before = made.len();
            let cut = match act {
                Act::Cut(at, len) => made.get(*at).map(|&of| (of, *len, open.tokens(of))),
                _ => None,
            };
            let status = open.call(act, &mut made);
            let context = format!("{act:?}: {status:?}, {}", open.error());
            prop_assert!(status != Status::Fault && status != Status::Busy, "{}", context);
            live.extend(&made[before..]);
            match act {
                Act::NoModel(_) => prop_assert_eq!(status, Status::Model),
                _ if closed => prop_assert_eq!(status, Status::Model),
                Act::Null(_) => {
                    let expected = [Status::Argument, Status::Conversation];
                    prop_assert!(expected.contains(&status), "{}", context);
                }
                Act::Close => {
                    prop_assert_eq!(status, Status::Ok);
                    closed = true;
                }
                Act::Free(at) => {
                    let was = made.get(*at).copied();
                    let lived = was.is_some_and(|was| live.contains(&was));
                    prop_assert_eq!(status == Status::Ok, lived, "{}", context);
                    live.retain(|&other| Some(other) != was);
                }
                Act::Step(at)
                | Act::Logits(at)
                | Act::Cut(at, _)
                | Act::Begin(at)
                | Act::Compute(at)
                | Act::Accept(at, _)
                | Act::Tokens(at, _)
                | Act::Sample(at, _) => {
                    let lives = made.get(*at).is_some_and(|of| live.contains(of));
                    prop_assert_eq!(status != Status::Conversation, lives, "{}", context);
                }
                // What they are given is looked at first.
                Act::Text(at, _)
                | Act::Message(at, ..)
                | Act::Messages(at, _)
                | Act::Sampling(at, _)
                | Act::Biases(at, _) => {
                    let lives = made.get(*at).is_some_and(|of| live.contains(of));
                    let fits = if lives { status != Status::Conversation } else { status != Status::Ok };
                    prop_assert!(fits, "{}", context);
                }
                _ => {}
            }
            if let Some((of, len, Some((tokens, computed)))) = cut {
                let (left, still) = open.tokens(of).unwrap();
                prop_assert_eq!(&left[..], &tokens[..len.min(tokens.len())], "{}", context);
                prop_assert!(still <= computed && still <= left.len(), "{}", context);
            }
            prop_assert!(live.len() <= 3);
            for &conversation in &made {
                let state = open.tokens(conversation);
                prop_assert_eq!(state.is_some(), !closed && live.contains(&conversation));
                let fits = |(tokens, computed): (Vec<u32>, usize)| tokens.len() <= 96 && computed <= tokens.len();
                prop_assert!(state.is_none_or(fits));
            }
        }
        // Whatever happened, a model that is open works.
        if !closed {
            let (mut info, mut stats): (Info, Statistics) =
                // SAFETY: integers, floats and pointers.
                unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
            // SAFETY: all pointers are good.
            unsafe {
                prop_assert_eq!(rill_get_info(open.model, &mut info), Status::Ok);
                prop_assert_eq!(rill_get_stats(open.model, &mut stats), Status::Ok);
            }
            prop_assert_eq!(info.conversations, 3);
            for conversation in live {
                // SAFETY: the model is there.
                let freed = unsafe { rill_conversation_free(open.model, conversation) };
                prop_assert_eq!(freed, Status::Ok);
            }
            let conversation = open.conversation();
            prop_assert_eq!(open.append(conversation, &[300]), Status::Ok);
            let stopped = acts.iter().any(|act| matches!(act, Act::Stop));
            let (status, _) = open.step(conversation);
            prop_assert!(status == Status::Ok || stopped && status == Status::Stopped);
        }
    }
}
