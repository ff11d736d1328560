//! [`Table`]: text in columns, as spreadsheets and data sets write it: commas, semicolons or tabs; fields may be quoted.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use crate::{Error, Result};

/// Bytes of one file: two million lines of a hundred bytes.
const BYTES: u64 = 256 << 20;

/// Columns of one line.
const COLUMNS: usize = 1000;

/// The rows of a file; empty lines are left out.
#[derive(Debug)]
pub struct Table {
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads `path`. The separator is the tab, semicolon or comma that the first line has most of.
    ///
    /// # Errors
    /// The file cannot be read, is too large or no UTF-8 text; a quote that is not closed; rows of different lengths.
    pub fn read(path: &Path) -> Result<Self> {
        let invalid = |problem: String| Error::images(path.display(), problem);
        let text = text(path)?;
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let count = |c: char| first.matches(c).count();
        let separator = ['\t', ';', ','].into_iter().rev().max_by_key(|&c| count(c)).unwrap_or(',');
        let rows = rows(&text, separator).map_err(invalid)?;
        let wide = rows.first().map_or(0, Vec::len);
        if let Some(at) = rows.iter().position(|row| row.len() != wide) {
            return Err(invalid(format!("row {} has {} columns, the first {wide}", at + 1, rows[at].len())));
        }
        Ok(Self { rows })
    }
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// The file cannot be read, is too large or no UTF-8 text.
pub fn text(path: &Path) -> Result<String> {
    let invalid = |problem: String| Error::images(path.display(), problem);
    // checked before opening: opening a pipe would block until it has a writer
    if !fs::metadata(path).map_err(|e| Error::io(path, e))?.is_file() {
        return Err(invalid("is not a regular file".into()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > BYTES {
        return Err(invalid(format!("is larger than {} MiB", BYTES >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| invalid("must be UTF-8 text".into()))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn rows(text: &str, separator: char) -> Result<Vec<Vec<String>>, String> {
    let mut rows = Vec::new();
    let (mut row, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().chain(['\n']).peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.trim().is_empty() => {
                field.clear();
                quoted = true;
            }
            c if quoted => field.push(c),
            c if c == separator || c == '\n' => {
                row.push(std::mem::take(&mut field).trim().to_owned());
                if row.len() > COLUMNS {
                    return Err(format!("row {} has more than {COLUMNS} columns", rows.len() + 1));
                }
                if c == '\n' {
                    let row = std::mem::take(&mut row);
                    rows.extend((row.len() > 1 || !row[0].is_empty()).then_some(row));
                }
            }
            c => field.push(c),
        }
    }
    if quoted {
        return Err("a quoted field is not closed".into());
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Vec<String>>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Table::read(file.path()).map(|t| t.rows).map_err(|e| e.to_string())
    }

    #[test]
    fn separators_and_quotes() {
        let two = [["a", "b"], ["c d", "e"]];
        for text in
            ["a,b\nc d,e", "a;b\r\nc d;e\r\n", "a\tb\n\nc d\te\n\n", "\u{feff}\"a\", \"b\"\n\"c d\",e\n"]
        {
            assert_eq!(read(text).unwrap(), two, "{text:?}");
        }
        assert_eq!(read("a,b\n\"c,\"\"d\"\"\",\"e\nf\"").unwrap()[1], ["c,\"d\"", "e\nf"]);
        assert_eq!(read("one\n\ntwo").unwrap(), [["one"], ["two"]]);
        assert!(read("a,b\nc").unwrap_err().contains("row 2 has 1 columns, the first 2"));
        assert!(read("a,\"b\nc,d").unwrap_err().contains("not closed"));
        assert!(read("").unwrap().is_empty());
    }
}
