//! ONNX's image metadata (`docs/MetadataProps.md` of ONNX) among a model's metadata: keys in any case.

use super::{super::Origin, Stated};
use crate::{Error, Result, error::printable};

/// Subject in errors and origins.
const SUBJECT: &str = "the model's metadata";

/// A key: its part, and the words of the standard with the text of the part. None: not supported, with the reason.
struct Key {
    name: &'static str,
    part: Option<&'static str>,
    words: &'static [(&'static str, Result<&'static str, &'static str>)],
}

const KEYS: [Key; 3] = [
    Key {
        name: "Image.BitmapPixelFormat",
        part: Some("channels"),
        words: &[
            ("Gray8", Ok("gray")),
            ("Rgb8", Ok("rgb")),
            ("Bgr8", Ok("bgr")),
            ("Rgba8", Err("images with an alpha channel are not supported")),
            ("Bgra8", Err("images with an alpha channel are not supported")),
        ],
    },
    Key {
        name: "Image.NominalPixelRange",
        part: Some("range"),
        words: &[
            ("NominalRange_0_255", Ok("0-255")),
            ("Normalized_0_1", Ok("normalized-0-1")),
            ("Normalized_1_1", Ok("normalized-1-1")),
            ("NominalRange_16_235", Ok("16-235")),
        ],
    },
    Key {
        name: "Image.ColorSpaceGamma",
        part: None, // pixels are taken as they are stored
        words: &[
            ("SRGB", Ok("")),
            ("Linear", Err("pixels are given with the gamma of sRGB; linear ones are not supported")),
        ],
    },
];

/// Reads the metadata.
pub fn read(metadata: &[(String, String)]) -> Result<Stated> {
    let mut stated = Stated::default();
    for key in &KEYS {
        let mut values =
            metadata.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key.name)).map(|(_, v)| v.trim());
        let Some(value) = values.next() else { continue };
        let error = |problem: String| Error::images(format!("{SUBJECT}: {}", key.name), problem);
        if values.any(|other| !other.eq_ignore_ascii_case(value)) {
            return Err(error("is there twice, with different values".into()));
        }
        let word = key.words.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
        let Some((word, text)) = word else {
            let words = key.words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            return Err(error(format!("is \"{}\", expected one of {words}", printable(value))));
        };
        let text = text.map_err(|why| error(format!("is {word}: {why}")))?;
        if let Some(part) = key.part {
            stated.parts.push((part, text.to_owned(), Origin::File(format!("{SUBJECT}: {}", key.name))));
        }
    }
    Ok(stated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Vec<(&'static str, String)>, String> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let stated = read(&pairs).map_err(|e| e.to_string())?;
        Ok(stated.parts.into_iter().map(|(name, text, _)| (name, text)).collect())
    }

    #[test]
    fn every_word_of_the_standard_is_a_part_or_refused_by_name() {
        let format = |word| of(&[("Image.BitmapPixelFormat", word)]);
        for (word, text) in [("Gray8", "gray"), ("Rgb8", "rgb"), ("Bgr8", "bgr")] {
            assert_eq!(format(word).unwrap(), [("channels", text.to_owned())]);
        }
        assert!(format("Bgra8").unwrap_err().contains("alpha"));
        assert!(format("Yuv").unwrap_err().contains("expected one of Gray8, Rgb8"));
        let range = |word| of(&[("image.nominalpixelrange", word)]);
        for (word, text) in [
            ("NominalRange_0_255", "0-255"),
            ("Normalized_0_1", "normalized-0-1"),
            ("Normalized_1_1", "normalized-1-1"),
            ("NominalRange_16_235", "16-235"),
        ] {
            assert_eq!(range(word).unwrap(), [("range", text.to_owned())]);
        }
        assert_eq!(of(&[("Image.ColorSpaceGamma", "SRGB"), ("author", "me")]).unwrap(), []);
        assert!(
            of(&[("Image.ColorSpaceGamma", "Linear")])
                .unwrap_err()
                .contains("Image.ColorSpaceGamma: is Linear")
        );
        assert!(of(&[("Image.BitmapPixelFormat", "Rgb8"), ("image.bitmappixelformat", "Bgr8")]).is_err());
    }
}
