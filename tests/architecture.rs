//! The rooms of the house: what `docs/architecture.md` says that a room may use is what it uses, and files of one room
//! import each other in no circle that is not listed there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The module of src/lib.rs for rooms that are not published: not a part of a room's path.
const HIDDEN: &str = "internals";

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
    let of = reexported();
    let owner = |mut word: String| {
        while let Some(room) = of.get(&word) {
            word = room.clone();
        }
        word
    };
    words.into_iter().map(owner).filter(|w| rooms.contains_key(w) && w != room).collect()
}

/// What the root re-exports, and what of: `Error` of `error`, `error` of `base`.
fn reexported() -> BTreeMap<String, String> {
    let uses = imports(&code(&root().join("src/lib.rs")));
    let pairs = uses.into_iter().filter_map(|(_, mut path)| Some((path.pop()?, path.pop()?)));
    pairs.filter(|(_, of)| of != HIDDEN).collect()
}

#[test]
fn every_module_is_a_room() {
    let rooms = allowed();
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|l| {
        let l = l.strip_prefix("    ").unwrap_or(l); // of the root or of `internals`
        l.strip_prefix("pub mod ").or(l.strip_prefix("mod "))?.strip_suffix(';')
    });
    let names: Vec<&str> = modules.collect();
    assert!(names.len() > 10, "src/lib.rs declares {names:?}");
    for name in names {
        assert!(rooms.contains_key(name), "`{name}` is no room of docs/architecture.md");
    }
}

#[test]
fn each_room_uses_what_it_may_and_may_no_more() {
    let rooms = allowed();
    let mut broken = Vec::new();
    for (room, may) in &rooms {
        let uses = used(room, &rooms);
        broken.extend(uses.difference(may).map(|other| format!("{room} uses {other}")));
        broken.extend(may.difference(&uses).map(|other| format!("{room} may use {other} and does not")));
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

/// The paths that a `use` names, its groups written out.
fn paths(tree: &str) -> Vec<Vec<String>> {
    let segments = |text: &str| -> Vec<String> {
        text.split("::").map(|s| s.trim().to_owned()).filter(|s| !s.is_empty() && s != "self").collect()
    };
    let Some((head, group)) = tree.split_once('{') else {
        return vec![segments(tree.split(" as ").next().unwrap_or_default())];
    };
    let mut depth = 0;
    let parts = group[..group.rfind('}').unwrap_or(group.len())].split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.filter(|part| !part.trim().is_empty()).flat_map(paths);
    parts.map(|rest| [segments(head), rest].concat()).collect()
}

/// The paths that are imported, and whether they are passed on: `pub use`.
fn imports(code: &str) -> Vec<(bool, Vec<String>)> {
    let import = |statement: &str| {
        let before = |at: usize| statement[..at].rsplit('\n').next().unwrap_or_default().trim();
        let mut uses = statement.match_indices("use ").map(|(at, _)| at);
        let at = uses.find(|&at| ["", "pub", "pub(crate)", "pub(super)"].contains(&before(at)))?;
        let passed_on = !before(at).is_empty();
        Some(paths(&statement[at + 4..]).into_iter().map(move |path| (passed_on, path)).collect::<Vec<_>>())
    };
    code.split(';').filter_map(import).flatten().collect()
}

/// Imports of the modules of the crate, by the module's path, from the root: each file is one.
fn modules() -> BTreeMap<Vec<String>, Vec<(bool, Vec<String>)>> {
    let mut sources = Vec::new();
    files(&root().join("src"), &mut sources);
    let of = |path: &std::path::PathBuf| {
        let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
        let names = inside.iter().map(|name| name.to_string_lossy().into_owned());
        (names.filter(|name| name != "mod" && name != "lib").collect::<Vec<_>>(), imports(&code(path)))
    };
    let mut modules: BTreeMap<_, _> = sources.iter().map(of).collect();
    let names: Vec<Vec<String>> = modules.keys().cloned().collect();
    for (module, uses) in &mut modules {
        let from_root = |(passed_on, path): (bool, Vec<String>)| {
            let up = path.iter().take_while(|name| *name == "super").count();
            let child = [module.as_slice(), &path[..1.min(path.len())]].concat();
            let path = match path.first()?.as_str() {
                "crate" => path[1..].to_vec(),
                "super" => [&module[..module.len().saturating_sub(up)], &path[up..]].concat(),
                _ => (module.is_empty() || names.contains(&child))
                    .then(|| [module.as_slice(), &path].concat())?,
            };
            Some((passed_on, path.into_iter().filter(|name| name != HIDDEN).collect()))
        };
        *uses = std::mem::take(uses).into_iter().filter_map(from_root).collect();
    }
    modules
}

/// A parent's `pub use` leads on to the child; that a parent calls its children by their paths is no import.
#[test]
fn files_of_a_room_import_each_other_in_no_circle_but_those_listed() {
    let modules = modules();
    let passed_on: BTreeMap<Vec<String>, &Vec<String>> = (modules.iter())
        .flat_map(|(module, uses)| uses.iter().map(move |(on, path)| (module, on, path)))
        .filter(|(.., on, path)| **on && !path.is_empty())
        .map(|(module, _, path)| ([module.as_slice(), &path[path.len() - 1..]].concat(), path))
        .collect();
    let file = |path: &[String]| -> Option<Vec<String>> {
        let mut path = path.to_vec();
        let mut end = path.len();
        while end > 0 && !modules.contains_key(&path[..end]) {
            if let Some(to) = passed_on.get(&path[..end]) {
                path = [to.as_slice(), &path[end..]].concat();
                end = path.len() + 1;
            }
            end -= 1;
        }
        (end > 0).then(|| path[..end].to_vec())
    };
    let edges: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = (modules.iter())
        .map(|(module, uses)| {
            let used = uses.iter().filter(|(on, _)| !on).filter_map(|(_, path)| file(path));
            (module, used.filter(|to| to != module && to.first() == module.first()).collect())
        })
        .collect();
    let reach = |from: &Vec<String>| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            next.extend(edges[&module].iter().filter(|to| seen.insert((*to).clone())).cloned());
        }
        seen
    };
    let reached: BTreeMap<_, _> = modules.keys().map(|module| (module.clone(), reach(module))).collect();
    let mut circles = BTreeSet::new();
    for (module, to) in reached.iter().filter(|(module, to)| to.contains(*module)) {
        let circle = to.iter().filter(|other| reached[*other].contains(module));
        circles.insert(circle.map(|file| file.join("/")).collect::<BTreeSet<_>>());
    }
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let section =
        text.split("\n## Circles\n").nth(1).expect("a section on circles").split("\n## ").next().unwrap();
    let listed = section.lines().filter(|line| line.starts_with("- `"));
    let listed: BTreeSet<_> = listed.map(|line| quoted(line.split_once("`: ").unwrap().0)).collect();
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 100, "imports were not found");
    assert_eq!(circles, listed, "circles of files, and those that docs/architecture.md gives a reason for");
}
