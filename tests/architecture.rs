//! The rooms of the house: what `docs/architecture.md` says that a room may use is what it uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

type Rooms = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words in backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The table `| room | owns | may use |`.
fn allowed() -> Rooms {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let table = text.lines().skip_while(|l| !l.starts_with("| room | owns | may use |")).skip(2);
    let rows = table.take_while(|l| l.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, room, _, uses, _] = cells[..] else { panic!("not three cells: {line}") };
        let room = quoted(room).pop_first().unwrap_or_else(|| panic!("no room in backticks: {line}"));
        (room, quoted(uses))
    });
    rows.collect()
}

/// A source file without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let own = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = own.lines().map(|line| line.split_once("//").map_or(line, |(before, _)| before));
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of the crate that these tokens after `crate::` name: one, or each of a group.
fn named(after: &str, into: &mut BTreeSet<String>) {
    let word =
        |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = after.strip_prefix('{') else {
        into.insert(word(after));
        return;
    };
    let mut depth = 0;
    let mut start = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && c.is_alphabetic() => {
                into.insert(word(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
}

/// The Rust files below a room's folder, or the room's one file.
fn files(path: &Path, found: &mut Vec<std::path::PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        let is_test = path.file_stem().is_some_and(|s| s.to_string_lossy().ends_with("tests"));
        found.extend((!is_test).then(|| path.to_path_buf()));
    }
}

/// Which rooms the room at `src/room` uses.
fn used(room: &str, rooms: &Rooms) -> BTreeSet<String> {
    let mut sources = Vec::new();
    files(&root().join("src").join(room), &mut sources);
    files(&root().join("src").join(format!("{room}.rs")), &mut sources);
    let mut words = BTreeSet::new();
    for path in sources.iter().filter(|p| p.exists()) {
        let code = code(path);
        for after in code.split("crate::").skip(1) {
            named(after, &mut words);
        }
    }
    words.into_iter().filter(|w| rooms.contains_key(w) && w != room).collect()
}

#[test]
fn every_module_is_a_room() {
    let rooms = allowed();
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules =
        lib.lines().filter_map(|l| l.trim().strip_prefix("pub mod ").or(l.trim().strip_prefix("mod ")));
    for module in modules {
        let name = module.trim_end_matches([';', '{', ' ']);
        assert!(rooms.contains_key(name), "`{name}` is no room of docs/architecture.md");
    }
}

#[test]
fn no_room_uses_what_it_may_not() {
    let rooms = allowed();
    let mut broken = Vec::new();
    for (room, may) in &rooms {
        let uses = used(room, &rooms);
        broken.extend(uses.difference(may).map(|other| format!("{room} uses {other}")));
    }
    assert!(broken.is_empty(), "docs/architecture.md and src differ:\n{}", broken.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    let mut rooms = allowed();
    assert!(rooms.len() > 10, "the table has {} rows", rooms.len());
    while !rooms.is_empty() {
        let free: Vec<String> =
            rooms.iter().filter(|(_, uses)| uses.is_empty()).map(|(r, _)| r.clone()).collect();
        assert!(!free.is_empty(), "a circle among {:?}", rooms.keys());
        rooms.retain(|room, _| !free.contains(room));
        rooms.values_mut().for_each(|uses| uses.retain(|u| !free.contains(u)));
    }
}
