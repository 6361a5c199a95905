//! The C header is what the sources of the library make of it: an interface that changes, changes before
//! everybody's eyes.

use std::fs;
use std::path::Path;

#[test]
fn the_header_is_what_the_sources_say() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../platform/ffi");
    let config = cbindgen::Config::from_file(crate_folder.join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new().with_crate(&crate_folder).with_config(config).generate();
    let mut bytes = Vec::new();
    made.unwrap().write(&mut bytes);
    // What Rust's readers are told about safety is the header's front page.
    let text = String::from_utf8(bytes).unwrap();
    let safety = "//\n// # Safety\n// As the header's front page says.\n";
    let text = text.replace(safety, "");
    let kept = crate_folder.join("include/rill.h");
    if fs::read_to_string(&kept).unwrap_or_default() != text {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rill.h");
        fs::write(&new, text).unwrap();
        panic!(
            "the interface has changed. Look at the difference, raise RILL_ABI where programs that \
             were compiled before would break, and keep the new header:\n    cp {} {}",
            new.display(),
            kept.display()
        );
    }
}
