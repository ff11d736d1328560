//! Which entries of a data set are images, by their names: the same for folders and archives.

/// Endings of image files, in lower case. What is in them decides how they are read.
const ENDINGS: [&str; 14] =
    ["png", "jpg", "jpeg", "jfif", "jpe", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "dib"];

/// The formats, for messages.
pub const EXPECTED: &str = "PNG, JPEG, WebP, BMP, TIFF or PNM files";

/// Folders that operating systems and network stores leave behind.
const LEFT_BEHIND: [&str; 6] =
    ["__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"];

/// Most folders below a class folder, one in the other.
pub const DEPTH: usize = 16;

/// Whether a file or folder of this name is passed over whatever it is: hidden, or left behind by a system.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".") || LEFT_BEHIND.iter().any(|litter| name.eq_ignore_ascii_case(litter.as_bytes()))
}

/// Whether a file of this name is an image.
pub fn is_image(name: &[u8]) -> bool {
    let Some(dot) = name.iter().rposition(|&b| b == b'.') else { return false };
    let ending = &name[dot + 1..];
    !is_hidden(name) && ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known.as_bytes()))
}

/// `; N other files were passed over` for a message; empty if there were none.
pub fn also_passed_over(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "; 1 file that is no image was passed over".into(),
        _ => format!("; {count} files that are no images were passed over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_names() {
        for name in ["a.png", "B.JPEG", "c.d.Tif", "00000_00000.ppm", "x.jfif"] {
            assert!(is_image(name.as_bytes()), "{name}");
        }
        for name in
            ["Thumbs.DB", "desktop.ini", "LICENSE.txt", "png", "a.png.txt", "._a.png", "a.gif", "labels.csv"]
        {
            assert!(!is_image(name.as_bytes()), "{name}");
        }
        for name in [".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN"] {
            assert!(is_hidden(name.as_bytes()), "{name}");
        }
    }
}
