//! What the targets share.

use std::{cell::RefCell, fs, panic, path::Path};

use polarizer::data::Source;

thread_local! {
    static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A panic of `zune-jpeg` is caught by the library and means a damaged file: it does not end the run, all others do.
pub fn pass_over_decoders() {
    let end = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|at| at.file().contains("zune-jpeg")) {
            end(panic);
        }
    }));
}

/// Calls `with` with a file called `name` that holds `data`; the one of the call before is gone.
pub fn with_file(name: &str, data: &[u8], with: impl FnOnce(&Path)) {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| tempfile::tempdir().expect("a temporary folder"));
        let path = folder.path().join(name);
        fs::write(&path, data).expect("a file in it");
        with(&path);
        fs::remove_file(&path).expect("the file as it was");
    });
}

/// Reads the first images of a source, its labels and its names.
pub fn read(source: &dyn Source) {
    let classes = source.classes().unwrap_or_default();
    let labels = source.labels(&classes);
    if let Ok(Some(labels)) = labels {
        assert_eq!(labels.len(), source.count());
    }
    for row in 0..source.count().min(8) {
        let _ = source.row_name(row);
        if let Ok(picture) = source.picture(row) {
            let [h, w] = picture.size;
            assert_eq!(picture.pixels.len(), h * w * picture.channels);
        }
    }
}
