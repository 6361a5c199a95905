//! What templates that mean ill make the program hold, counted where memory is asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use rill_template::{Conversation, Template, TemplateError, Words};
use serde_json::json;

/// Counts the bytes that are held, and the most that were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        MOST.fetch_max(held, Ordering::SeqCst);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: as above; it came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that a rendering may hold: what the fuel of a short conversation pays for, and as much
/// again while a text or a list grows.
const MOST_BYTES: usize = 48 << 20;

const SOURCES: [&str; 33] = [
    "{{ ' '.join([[[1]*99999]*99999]) }}",
    "{{ '{}'.format([[1]*99999]*99999) }}",
    "{{ '{a}'.format(a=[[1]*99999]*99999) }}",
    "{{ ('{0}'*90000).format('a'*60000) }}",
    "{{ ('{0:f}'*500000).format(1e300) }}",
    "{{ ([1]*9999999999).count(2) }}",
    "{{ ([1]*9999999999).index(2) }}",
    "{{ 'a'.startswith(['b']*9999999999) }}",
    "{{ ('x'*60000).join(('a'*90000)|list) }}",
    "{{ 'x'.join([('y' * 60000)] * 90000) }}",
    "{{ (range(90000)|list)|join('x'*60000) }}",
    "{% set s=' '*60000 %}{{ [[[[[[[[[[range(3000)|list]]]]]]]]]]|tojson(indent=s) }}",
    "{% set s='x'*60000 %}{{ range(90000)|list|tojson(separators=[s,s]) }}",
    "{{ ('\\U0001F98A' * 900000) | tojson(ensure_ascii=true) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:.999999999f}'.format(1.5) }}",
    "{{ ('{:60000}' * 1000).format(*([1] * 1000)) }}",
    "{{ '%999999999d'|format(1) }}",
    "{{ '%*d' | format(999999999, 1) }}",
    "{{ 'a\\nb'|indent(1000000000) }}",
    "{{ ('\\n'*90000)|indent(60000, true, true) }}",
    "{{ ('a'*100000).replace('a','b'*100000) }}",
    "{{ ('a'*1000000)|replace('','b'*64) }}",
    "{{ strftime_now('%c'*5000000) }}",
    "{% set x = ('\\n'*6000000).splitlines() %}{% set y = ('\\n'*6000000).splitlines() %}",
    "{% set x = ('a,'*3000000).split(',') %}{% set y = ('a,'*3000000).rsplit(',') %}",
    "{% set x = ('a '*3000000).split() %}{% set y = ('a '*3000000).rsplit() %}",
    "{% set x = ('a'*6000000)|list %}{% set y = ('a'*6000000)|list %}",
    "{{ [1]|batch(1000000000,'x')|list|length }}",
    "{{ [1]|slice(1000000000)|list|length }}",
    "{{ ('ΐ'*1000000).upper().upper() }}{{ ('ΐ'*1000000)|upper|upper }}",
    "{{ ('<'*3000000)|e|e|e|e|e }}",
    "{% set ns=namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = ns.x + ['a'.center(65536)] %}{% endfor %}",
];

/// One test, so that nothing else is counted.
#[test]
fn what_a_template_holds_is_paid_for_before_it_is_made() {
    for source in SOURCES {
        let template = Template::new(source, Words::default()).expect(source);
        let messages = vec![json!({"role": "user", "content": "Hello"})];
        let before = HELD.load(Ordering::SeqCst);
        MOST.store(before, Ordering::SeqCst);
        let rendered = template.render(&Conversation::new(messages));
        let most = MOST.load(Ordering::SeqCst).saturating_sub(before);
        assert!(most < MOST_BYTES, "{source}: {} MiB", most >> 20);
        let error = rendered.expect_err(source);
        let is_clear = match &error {
            TemplateError::Work => true,
            // What is too wide is refused at once; a test of something that is not there tests nothing.
            TemplateError::Failed(what) => !what.contains("unknown"),
            _ => false,
        };
        assert!(is_clear, "{source}: {error}");
    }
}
