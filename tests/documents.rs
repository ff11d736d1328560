//! The documents: links lead somewhere, README stays short, and the command that it shows is the one that CI runs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file of the repository, build folders left out.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The targets of `[text](target)` outside of code blocks.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.starts_with("```");
        if code || line.starts_with("    ") {
            continue;
        }
        for after in line.split("](").skip(1) {
            found.extend(after.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    found
}

/// The anchors that a page's headings get: lower case, spaces as hyphens, other punctuation dropped.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut pages = Vec::new();
    documents(root(), &mut pages);
    let mut broken = Vec::new();
    let mut checked = 0;
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for link in links(&text).iter().filter(|l| !l.contains("://") && !l.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let is_page = target.extension().is_some_and(|e| e == "md");
            let found = target.exists()
                && (anchor.is_empty()
                    || is_page && anchors(&fs::read_to_string(&target).unwrap()).iter().any(|a| a == anchor));
            checked += 1;
            if !found {
                broken.push(format!("{}: {link}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(checked > 50, "only {checked} links were found");
    assert!(broken.is_empty(), "these lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn readme_stays_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 160, "README has {lines} lines; what a newcomer does not need belongs in docs/");
}

#[test]
fn readme_shows_the_commands_that_ci_runs() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    for name in ["purify", "tests"] {
        let start = format!("{name}=\"");
        let line =
            ci.lines().find_map(|l| l.strip_prefix(&start)).unwrap_or_else(|| panic!("CI has no {name}"));
        let command = line.trim_end_matches('"');
        assert!(
            readme.lines().any(|l| l.trim_start().starts_with(command)),
            "README does not show `{command}`"
        );
    }
}

/// Needs Python, and nothing beside it.
#[test]
fn tables_are_what_their_data_gives() {
    let python = env::var_os("POLARIZER_PYTHON").unwrap_or_else(|| "python3".into());
    let check = Command::new(python).args(["-B", "benches/table.py", "--check"]).current_dir(root()).output();
    match check {
        Ok(done) => assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr)),
        Err(e) if env::var_os("CI").is_none() => eprintln!("ignored: no Python ({e})"),
        Err(e) => panic!("no Python: {e}"),
    }
}

/// README's example is the one in the documentation of `Job`, which the documentation tests compile.
#[test]
fn the_library_example_is_one_that_is_compiled() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let source = fs::read_to_string(root().join("src/pipeline/job.rs")).unwrap();
    let compiled: String = source
        .lines()
        .skip_while(|line| !line.starts_with("/// ```no_run"))
        .skip(1)
        .take_while(|line| *line != "/// ```")
        .filter(|line| !line.starts_with("/// #"))
        .map(|line| format!("{}\n", line.trim_start_matches("///").strip_prefix(' ').unwrap_or_default()))
        .collect();
    assert_eq!(shown, compiled);
}
