//! `docs/settings.md` is what the settings' declarations say. `BLESS=1 cargo test --test settings` writes it.

use std::{fmt::Write as _, path::Path};

use polarizer::internals::train::{Form, Recipe, SETTINGS, Setting};

const BEFORE: &str = "# Settings of a training\n\nGenerated from the declarations in `src/train/settings/table.rs`: \
`BLESS=1 cargo test --test settings`. A setting is an option of `purify` (dashes for underscores) and a key of a \
report's `settings`. Two recipes set them all: the default one, and `--recipe published`.\n";

/// A setting's form in words.
fn form(setting: &Setting) -> String {
    let own = match setting.form {
        Form::Count(least) => format!("whole number, at least {least}"),
        Form::Number => "number, at least 0".to_owned(),
        Form::Flag => "`true` or `false`".to_owned(),
        Form::Words(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Form::Weights => "four numbers, at least 0".to_owned(),
        other => panic!("{other:?}"),
    };
    setting.unset.map_or(own.clone(), |(word, what)| format!("{own}; `{word}`: {what}"))
}

fn document() -> String {
    let mut out = BEFORE.to_owned();
    out += "\n| setting | meaning | values | default | published | applies with |\n| --- | --- | --- | --- | --- | --- |\n";
    for setting in SETTINGS {
        let [own, published] = [Recipe::Default, Recipe::Published].map(|recipe| {
            let value = setting.default_in(recipe).expect("a default where it applies");
            let applies = setting.value(&recipe.settings()).is_some();
            let shown = setting.show(value);
            if applies { shown } else { format!("({shown})") }
        });
        let with = setting.when.iter().map(|(name, value)| format!("`{name}` {value}")).collect::<Vec<_>>();
        let (name, about, form) = (setting.name, setting.about, form(setting));
        writeln!(out, "| `{name}` | {about} | {form} | {own} | {published} | {} |", with.join(", ")).unwrap();
    }
    out + "\nIn brackets: what a setting would be if what it depends on were chosen; by itself the recipe does not use it.\n"
}

#[test]
fn docs_say_what_the_declarations_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let document = document();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(there, document, "docs/settings.md is old: BLESS=1 cargo test --test settings");
}
