//! The program on the front page of the engine's documentation answers.

#[path = "../../runtime/examples/answer.rs"]
#[expect(dead_code, reason = "its main reads a file")]
mod example;

use rill_tests::kiosk;

#[test]
fn the_program_on_the_front_page_answers() {
    let image = kiosk::default_image();
    let answer = example::answer(image, 32 << 20, "Hello, my name is Nora.").unwrap();
    assert!(answer.contains("Nora"), "{answer}");
    // The same answer, where a fraction of the experts fits.
    assert_eq!(example::answer(image, 8 << 20, "Hello, my name is Nora.").unwrap(), answer);
    let error = example::answer(image, 1 << 20, "Hello").unwrap_err();
    assert!(error.to_string().contains("least"), "{error}");
}
