//! What a file is, by its first bytes.

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bmp,
    Jpeg,
    Png,
    Pnm,
    Tiff,
    WebP,
    Empty,
    /// Known, but not read: its name, and what can be done.
    Foreign(&'static str, &'static str),
    Unknown,
}

/// The formats that are read, for messages.
pub const EXPECTED: &str = "a PNG, JPEG, WebP, BMP, TIFF or PNM (PPM, PGM, PBM) file";

const CONVERT: &str = "convert it to PNG";
const UNPACK: &str = "unpack it";
const NO_PICTURE: &str = "remove it, or put the image in its place";

/// Files by what they begin with.
const BEGINNINGS: &[(&[u8], Kind)] = &[
    (b"\xff\xd8\xff", Kind::Jpeg),
    (b"\x89PNG\r\n\x1a\n", Kind::Png),
    (b"BM", Kind::Bmp),
    (b"II*\0", Kind::Tiff),
    (b"MM\0*", Kind::Tiff),
    (b"II+\0", Kind::Foreign("a BigTIFF image", "convert it to PNG or TIFF")),
    (b"MM\0+", Kind::Foreign("a BigTIFF image", "convert it to PNG or TIFF")),
    (b"GIF87a", Kind::Foreign("a GIF image", CONVERT)),
    (b"GIF89a", Kind::Foreign("a GIF image", CONVERT)),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Kind::Foreign("a JPEG 2000 image", CONVERT)),
    (b"\xff\x4f\xff\x51", Kind::Foreign("a JPEG 2000 image", CONVERT)),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Kind::Foreign("a JPEG XL image", CONVERT)),
    (b"\xff\x0a", Kind::Foreign("a JPEG XL image", CONVERT)),
    (b"8BPS", Kind::Foreign("a Photoshop file", CONVERT)),
    (b"\0\0\x01\0", Kind::Foreign("an icon", CONVERT)),
    (b"v/1\x01", Kind::Foreign("an OpenEXR image", CONVERT)),
    (b"#?RADIANCE", Kind::Foreign("a Radiance HDR image", CONVERT)),
    (b"qoif", Kind::Foreign("a QOI image", CONVERT)),
    (b"DDS ", Kind::Foreign("a DirectDraw image", CONVERT)),
    (b"PF\n", Kind::Foreign("a PFM image of floats", CONVERT)),
    (b"Pf\n", Kind::Foreign("a PFM image of floats", CONVERT)),
    (b"P7\n", Kind::Foreign("a PAM image", CONVERT)),
    (b"%PDF", Kind::Foreign("a PDF document", CONVERT)),
    (b"%!PS", Kind::Foreign("a PostScript document", CONVERT)),
    (b"PK\x03\x04", Kind::Foreign("a ZIP archive", UNPACK)),
    (b"\x1f\x8b", Kind::Foreign("a gzip archive", UNPACK)),
    (b"Rar!", Kind::Foreign("a RAR archive", UNPACK)),
    (b"7z\xbc\xaf", Kind::Foreign("a 7-Zip archive", UNPACK)),
    (b"\x93NUMPY", Kind::Foreign("a NumPy array", "name the array itself as the source of images")),
];

impl Kind {
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Empty;
        }
        if let [b'P', b'1'..=b'6', blank, ..] = bytes
            && (blank.is_ascii_whitespace() || *blank == b'#')
        {
            return Self::Pnm;
        }
        if let Some((_, kind)) = BEGINNINGS.iter().find(|(start, _)| bytes.starts_with(start)) {
            return *kind;
        }
        match (bytes.get(..4), bytes.get(4..8), bytes.get(8..12)) {
            (Some(b"RIFF"), _, Some(b"WEBP")) => Self::WebP,
            (Some(b"RIFF"), ..) => Self::Foreign("a sound or video file", NO_PICTURE),
            (_, Some(b"ftyp"), Some(brand)) => boxed(brand),
            _ => Self::of_text(bytes),
        }
    }

    fn of_text(bytes: &[u8]) -> Self {
        let start = &bytes[..bytes.len().min(512)];
        if start.iter().all(|&b| b == 0) {
            return Self::Foreign("filled with zeros", "copy the image again");
        }
        let text =
            String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
        if text.starts_with("<!doctype html") || text.starts_with("<html") || text.starts_with("<head") {
            return Self::Foreign("an HTML page", "download the image itself");
        }
        if text.starts_with("<svg") || text.starts_with("<?xml") && text.contains("<svg") {
            return Self::Foreign("an SVG drawing", CONVERT);
        }
        if text.starts_with("version https://git-lfs") {
            return Self::Foreign("a Git LFS pointer", "fetch the image itself with git lfs pull");
        }
        let printable = |b: &u8| !b.is_ascii_control() || b.is_ascii_whitespace();
        if start.iter().all(printable) && std::str::from_utf8(start).is_ok() {
            return Self::Foreign("text", NO_PICTURE);
        }
        Self::Unknown
    }
}

/// A file in boxes, by its brand.
fn boxed(brand: &[u8]) -> Kind {
    match brand {
        b"avif" | b"avis" => Kind::Foreign("an AVIF image", CONVERT),
        b"heic" | b"heix" | b"hevc" | b"heim" | b"heis" | b"mif1" | b"msf1" => {
            Kind::Foreign("a HEIC image", CONVERT)
        }
        _ => Kind::Foreign("a video file", NO_PICTURE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_content() {
        let foreign = |bytes: &[u8]| match Kind::of(bytes) {
            Kind::Foreign(what, _) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(Kind::of(b""), Kind::Empty);
        assert_eq!(Kind::of(b"P6\n1 1"), Kind::Pnm);
        assert_eq!(Kind::of(b"RIFF\0\0\0\0WEBPVP8 "), Kind::WebP);
        assert_eq!(Kind::of(b"\x01\x02\x03"), Kind::Unknown);
        assert_eq!(foreign(b"\n<!DOCTYPE html><p>404"), "an HTML page");
        assert_eq!(foreign(b"GIF89a"), "a GIF image");
        assert_eq!(foreign(b"\0\0\0\x20ftypavif"), "an AVIF image");
        assert_eq!(foreign(b"\0\0\0\x20ftypheic"), "a HEIC image");
        assert_eq!(foreign(b"not an image"), "text");
        assert_eq!(foreign(b"\0\0\0"), "filled with zeros");
    }
}
