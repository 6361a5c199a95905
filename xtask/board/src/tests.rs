use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../boards")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name).with_extension("toml")).unwrap()
}

/// Replaces a text that a board file has and expects this key in the error.
#[track_caller]
fn refused(name: &str, from: &str, to: &str, key: &str) -> String {
    let text = text(name);
    assert!(text.contains(from), "{text}");
    let (at, message) = Board::parse(name, &text.replacen(from, to, 1)).unwrap_err();
    assert_eq!(at, key, "{message}");
    message
}

#[test]
fn every_board_of_the_folder_is_usable() {
    let boards = all(&folder()).unwrap();
    assert!(boards.len() >= 9, "{boards:?}");
    for board in boards {
        assert_eq!(find(&folder(), &board.name).unwrap(), board);
    }
}

#[test]
fn an_unknown_board_is_answered_with_those_there_are() {
    let message = find(&folder(), "pi6").unwrap_err().to_string();
    assert!(message.contains("`pi6`") && message.contains("pi5"), "{message}");
    assert!(find(&folder(), "../boards/pi4").is_err());
}

#[test]
fn errors_name_the_key() {
    let message = refused("pi4", "cores =", "cors =", "cpu.cors");
    assert!(message.contains("unknown field"), "{message}");
    refused("pi4", "cores = 4", "cores = \"four\"", "cpu.cores");
    refused("pi4", "title", "titel", "titel");
    refused("pi4", "cores = 4", "cores = 0", "cpu.cores");
    refused("pi4", "\"neon\"", "\"neom\"", "cpu.kernels");
    refused("pi4", "kernels = \"neon\"", "kernels = \"dotprod\"", "cpu.kernels");
    refused("pi4", "budget = \"", "budget = \"1", "budget");
    refused("pi4", "platform = \"linux\"", "platform = \"bare\"", "bare");
    refused("pi4", "[instructions]\ntoken", "[instructions]\ntokens", "instructions.tokens");
    refused("pi4", "[instructions]\ntoken = ", "[instructions]\ntoken = 0 #", "instructions.token");
    refused("n100", "[sizes]", "[instructions]\ntoken = 1\n[sizes]", "instructions");
    refused("pi4", "bundle = \"16MiB\"\n", "", "sizes.bundle");
    refused("virt", "[sizes]\n", "[sizes]\nbundle = \"1MiB\"\n", "sizes.bundle");
    refused("executorch-x86_64", "[sizes]\n", "[sizes]\nbundle = \"1MiB\"\n", "sizes.bundle");
    refused("virt", "load = 0x4", "load = 0x9", "bare.load");
    refused("virt", "kind = \"psci\"", "kind = \"smc\"", "bare.secondaries.kind");
    let (key, message) = Board::parse("pi4", "title = 1 2").unwrap_err();
    assert_eq!(key, "syntax");
    assert!(message.contains("line 1"), "{message}");
}

/// Those of this architecture; the tests run on both.
#[test]
fn the_tables_are_those_of_the_engine() {
    for (kernels, needs) in rill::kernels::tables() {
        let table = TABLES.iter().find(|table| table.name == kernels.name).unwrap();
        let named: Vec<_> = table.needs.iter().map(|need| need.replace('-', "")).collect();
        assert_eq!(needs.names().collect::<Vec<_>>(), named, "{}", kernels.name);
    }
    let here =
        TABLES.iter().filter(|t| t.name == "scalar" || t.is_arm() == cfg!(target_arch = "aarch64"));
    assert_eq!(rill::kernels::tables().count(), here.count());
}

#[test]
fn the_file_is_named() {
    let message = Board::read(&folder().join("none.toml")).unwrap_err().to_string();
    assert!(message.contains("none.toml"), "{message}");
}
