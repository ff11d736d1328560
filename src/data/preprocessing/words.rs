//! The parts of preprocessing and their words.

use super::Preprocessing;

/// Height and width that a resize step aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extent {
    /// The network's input size.
    Target,
    /// Pixels; of one edge, both are equal.
    Pixels([usize; 2]),
    /// The network's input size divided by this, rounded down: timm's `crop_pct`, above 0. The sides are rounded as by
    /// timm, which for the longest edge is to the nearest pixel.
    CropPct(f64),
}

/// How images are resized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resize {
    /// Not at all: an image that has another size than the network's after the crop is an error.
    Never,
    /// Both sides independently, as torchvision's `Resize((h, w))`.
    Stretch(Extent),
    /// The shorter side; the longer one keeps the aspect ratio, rounded down, as torchvision's `Resize(n)`. For an extent
    /// that is not square: until it is covered, both sides rounded to the nearest, as timm's `ResizeKeepRatio`.
    ShortestEdge(Extent),
    /// The longer side; the shorter one keeps the aspect ratio, rounded down but not to 0, as torchvision's
    /// `Resize(None, max_size=n)`. For [`Extent::CropPct`] or an extent that is not square: until it fits within, both
    /// sides rounded to the nearest, as timm's `ResizeKeepRatio(.., longest=1)`.
    LongestEdge(Extent),
}

/// What is cut out of an image after it was resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crop {
    /// Nothing.
    None,
    /// The centre, of the network's input size or of the given height and width; a smaller image is padded with black,
    /// as torchvision's `CenterCrop` does.
    Center(Option<[usize; 2]>),
    /// As [`Crop::Center`], but where half of an odd margin is to be cut off it is rounded down, as in Hugging Face's
    /// image processors; torchvision and timm round it to the nearest even number.
    CenterFloor(Option<[usize; 2]>),
    /// As [`Crop::Center`], but padded with the mean colour: timm's `crop_mode` border.
    Border(Option<[usize; 2]>),
}

/// Declares an enum of words: each variant with its word and description.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its word in options and reports.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The one with this word.
            pub fn of(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.word() == word)
            }
        }
    };
}
words! {
    /// How pixels between those of the image are computed.
    Interpolation {
        /// Pillow's `NEAREST`: the pixel that holds the centre.
        Nearest = "nearest",
        /// Pillow's `BOX`: the mean of the pixels covered.
        Box = "box",
        /// Pillow's `BILINEAR`: a triangle filter that widens when shrinking (antialiasing), as all of Pillow's do.
        Bilinear = "bilinear",
        /// Pillow's `HAMMING`.
        Hamming = "hamming",
        /// Pillow's `BICUBIC`: a cubic filter with a = -0.5.
        Bicubic = "bicubic",
        /// Pillow's `LANCZOS`, of three lobes.
        Lanczos = "lanczos",
        /// PyTorch's `nearest`: the pixel above and left of the centre.
        TorchNearest = "torch-nearest",
        /// PyTorch's `bilinear` without antialiasing.
        TorchBilinear = "torch-bilinear",
        /// PyTorch's `bicubic` without antialiasing, a = -0.75.
        TorchBicubic = "torch-bicubic",
        /// PyTorch's `bilinear` with antialiasing: that of tensors. Differs from Pillow's in the rounding of weights.
        TorchAntialiasBilinear = "torch-antialias-bilinear",
        /// PyTorch's `bicubic` with antialiasing, a = -0.5.
        TorchAntialiasBicubic = "torch-antialias-bicubic",
        /// torchvision's `lanczos` of tensors.
        TorchAntialiasLanczos = "torch-antialias-lanczos",
    }
}

words! {
    /// The order of the channels that the network is fed.
    ChannelOrder {
        /// Red first; grey for a network of one channel.
        Rgb = "rgb",
        /// Blue first.
        Bgr = "bgr",
        /// Luma, repeated for a network of three channels.
        Gray = "gray",
    }
}

words! {
    /// The range that pixels are mapped to after normalisation, in the words of ONNX's image metadata
    /// (`Image.NominalPixelRange`). Black and white become its two ends if mean is 0 and std 1.
    PixelRange {
        /// 0 to 1.
        Normalized01 = "normalized-0-1",
        /// 0 to 255.
        ZeroTo255 = "0-255",
        /// -1 to 1.
        NormalizedMinus11 = "normalized-1-1",
        /// 16 to 235, as in video.
        Video = "16-235",
    }
}

impl PixelRange {
    /// (factor, offset): a pixel in the 0-1 scale times factor plus offset.
    pub(super) fn affine(self) -> (f32, f32) {
        match self {
            Self::Normalized01 => (1.0, 0.0),
            Self::ZeroTo255 => (255.0, 0.0),
            Self::NormalizedMinus11 => (2.0, -1.0),
            Self::Video => (219.0, 16.0),
        }
    }
}

/// A part of preprocessing that can be stated by itself.
pub struct Piece {
    /// Its field: `resize`.
    pub name: &'static str,
    /// Name of its value in help.
    pub value: &'static str,
    /// What it is, with the words that it takes.
    pub about: &'static str,
    set: fn(&mut Preprocessing, &str) -> Result<(), String>,
    show: fn(&Preprocessing) -> String,
}

/// All parts, in the order in which they are applied to an image.
pub const PIECES: &[Piece] = &[
    Piece {
        name: "size",
        value: "HxW",
        about: "Height and width that the network is fed, one number for both",
        set: |p, text| {
            p.size = Some(sides(text)?);
            Ok(())
        },
        show: |p| p.size.map_or_else(|| "that of the network".into(), |[h, w]| format!("{h}x{w}")),
    },
    Piece {
        name: "resize",
        value: "HOW",
        about: "none, stretch, shortest-edge or longest-edge; with `:256` or `:240x320` to that size, with `:0.875` to the \
                network's size divided by it (timm's crop_pct), else to the network's size",
        set: |p, text| {
            p.resize = resize(text)?;
            Ok(())
        },
        show: |p| resize_word(p.resize),
    },
    Piece {
        name: "crop",
        value: "WHAT",
        about: "none, center (padded with black where the image is smaller), center-floor (as Hugging Face's, which halve \
                odd margins otherwise) or border (padded with the mean); with `:224` that size, else the network's",
        set: |p, text| {
            p.crop = crop(text)?;
            Ok(())
        },
        show: |p| crop_word(p.crop),
    },
    Piece {
        name: "interpolation",
        value: "FILTER",
        about: "Filter for resizing, as Pillow's of that name (which antialiases all but nearest); torch-... as PyTorch's \
                on tensors without antialiasing, torch-antialias-... with it",
        set: |p, text| {
            p.interpolation = word(text, Interpolation::of, Interpolation::ALL, Interpolation::word)?;
            Ok(())
        },
        show: |p| p.interpolation.word().into(),
    },
    Piece {
        name: "channels",
        value: "ORDER",
        about: "Order of the network's channels: rgb, bgr, or gray",
        set: |p, text| {
            p.channels = word(text, ChannelOrder::of, ChannelOrder::ALL, ChannelOrder::word)?;
            Ok(())
        },
        show: |p| p.channels.word().into(),
    },
    Piece {
        name: "mean",
        value: "A,B,C",
        about: "Mean of each of the network's channels in the 0-1 scale, or one for all",
        set: |p, text| {
            p.mean = numbers(text)?;
            Ok(())
        },
        show: |p| list(&p.mean),
    },
    Piece {
        name: "std",
        value: "A,B,C",
        about: "Standard deviation of each of the network's channels in the 0-1 scale, or one for all",
        set: |p, text| {
            p.std = numbers(text)?;
            Ok(())
        },
        show: |p| list(&p.std),
    },
    Piece {
        name: "range",
        value: "RANGE",
        about: "What the normalised pixel (p - mean) / std is scaled to: normalized-0-1 (as it is), 0-255 (times 255), \
                normalized-1-1 (times 2, less 1) or 16-235 (times 219, plus 16)",
        set: |p, text| {
            p.range = word(text, PixelRange::of, PixelRange::ALL, PixelRange::word)?;
            Ok(())
        },
        show: |p| p.range.word().into(),
    },
];

impl Piece {
    /// The piece `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        PIECES.iter().find(|piece| piece.name == name)
    }

    /// Sets it.
    ///
    /// # Errors
    /// What was expected instead of `text`.
    pub(super) fn set(&self, preprocessing: &mut Preprocessing, text: &str) -> Result<(), String> {
        (self.set)(preprocessing, text.trim())
    }

    /// Its value as text, in the form that [`Preprocessing::with`] reads.
    pub fn show(&self, preprocessing: &Preprocessing) -> String {
        (self.show)(preprocessing)
    }
}

fn word<T: Copy>(
    text: &str,
    of: fn(&str) -> Option<T>,
    all: &[T],
    word: fn(T) -> &'static str,
) -> Result<T, String> {
    let words = || all.iter().map(|&one| word(one)).collect::<Vec<_>>().join(", ");
    of(text).ok_or_else(|| format!("`{text}`, expected one of {}", words()))
}

/// Parses `32x48` as height and width, `32` as both.
///
/// # Errors
/// Another form; a side of 0 or above [`super::super::limits::SIDE`].
pub fn sides(text: &str) -> Result<[usize; 2], String> {
    let most = super::super::limits::SIDE as usize;
    let side = |s: &str| s.parse::<usize>().ok();
    let (h, w) = text.split_once(['x', 'X']).unwrap_or((text, text));
    let Some((h, w)) = side(h).zip(side(w)) else {
        return Err(format!("`{text}`, expected height x width, as 32x48, or one number for both"));
    };
    if h == 0 || w == 0 || h > most || w > most {
        return Err(format!("{h}x{w}; both sides must be 1 to {most}"));
    }
    Ok([h, w])
}

fn extent(text: Option<&str>) -> Result<Extent, String> {
    match text {
        None => Ok(Extent::Target),
        Some(text) if text.contains('.') => match text.parse::<f64>() {
            Ok(share) if share > 0.01 && share <= 10.0 => Ok(Extent::CropPct(share)),
            _ => Err(format!("`{text}`, expected a crop_pct above 0.01 and at most 10")),
        },
        Some(text) => Ok(Extent::Pixels(sides(text)?)),
    }
}

fn resize(text: &str) -> Result<Resize, String> {
    let (how, to) = text.split_once(':').map_or((text, None), |(how, to)| (how, Some(to)));
    let edge = |to: Extent| match to {
        Extent::Pixels([h, w]) if h != w => Err(format!("`{text}`, expected one number for one edge")),
        to => Ok(to),
    };
    match how {
        "none" if to.is_none() => Ok(Resize::Never),
        "stretch" => Ok(Resize::Stretch(extent(to)?)),
        "shortest-edge" => Ok(Resize::ShortestEdge(edge(extent(to)?)?)),
        "longest-edge" => Ok(Resize::LongestEdge(edge(extent(to)?)?)),
        _ => Err(format!("`{text}`, expected none, stretch, shortest-edge or longest-edge")),
    }
}

fn resize_word(resize: Resize) -> String {
    let (how, to) = match resize {
        Resize::Never => return "none".into(),
        Resize::Stretch(to) => ("stretch", to),
        Resize::ShortestEdge(to) => ("shortest-edge", to),
        Resize::LongestEdge(to) => ("longest-edge", to),
    };
    match to {
        Extent::Target => how.into(),
        Extent::Pixels([h, w]) if h == w => format!("{how}:{h}"),
        Extent::Pixels([h, w]) => format!("{how}:{h}x{w}"),
        Extent::CropPct(share) => format!("{how}:{share:?}"),
    }
}

fn crop(text: &str) -> Result<Crop, String> {
    let (what, size) = text.split_once(':').map_or((text, None), |(what, size)| (what, Some(size)));
    match what {
        "none" if size.is_none() => Ok(Crop::None),
        "center" => Ok(Crop::Center(size.map(sides).transpose()?)),
        "center-floor" => Ok(Crop::CenterFloor(size.map(sides).transpose()?)),
        "border" => Ok(Crop::Border(size.map(sides).transpose()?)),
        _ => Err(format!("`{text}`, expected none, center, center-floor or border")),
    }
}

fn crop_word(crop: Crop) -> String {
    let (what, size) = match crop {
        Crop::None => return "none".into(),
        Crop::Center(size) => ("center", size),
        Crop::CenterFloor(size) => ("center-floor", size),
        Crop::Border(size) => ("border", size),
    };
    match size {
        None => what.into(),
        Some([h, w]) if h == w => format!("{what}:{h}"),
        Some([h, w]) => format!("{what}:{h}x{w}"),
    }
}

fn numbers(text: &str) -> Result<Vec<f32>, String> {
    let number = |part: &str| part.trim().parse::<f32>().map_err(|_| format!("`{part}` is not a number"));
    text.split(',').map(number).collect()
}

fn list(values: &[f32]) -> String {
    values.iter().map(f32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        let all = [
            ("size", "32x48"),
            ("resize", "none"),
            ("resize", "stretch"),
            ("resize", "stretch:240x320"),
            ("resize", "shortest-edge:256"),
            ("resize", "shortest-edge:0.875"),
            ("resize", "longest-edge:1.0"),
            ("crop", "center"),
            ("crop", "center:224"),
            ("crop", "center-floor:7"),
            ("crop", "border:224x192"),
            ("interpolation", "torch-bicubic"),
            ("channels", "bgr"),
            ("mean", "0.5,0.25,0"),
            ("std", "1"),
            ("range", "16-235"),
        ];
        for (name, text) in all {
            let piece = Piece::named(name).unwrap();
            let mut p = Preprocessing::default();
            piece.set(&mut p, text).unwrap();
            assert_eq!(piece.show(&p), text, "{name}");
        }
    }

    #[test]
    fn other_words_are_refused() {
        let all = [
            ("size", "0"),
            ("size", "32x"),
            ("size", "99999"),
            ("resize", "none:3"),
            ("resize", "shortest-edge:3x4"),
            ("resize", "crop"),
            ("resize", "stretch:0.0"),
            ("resize", "stretch:-1.0"),
            ("crop", "none:2"),
            ("crop", "corner"),
            ("interpolation", "sinc"),
            ("channels", "yuv"),
            ("mean", "a"),
            ("std", ""),
            ("range", "0-100"),
        ];
        for (name, text) in all {
            let piece = Piece::named(name).unwrap();
            assert!(piece.set(&mut Preprocessing::default(), text).is_err(), "{name} {text}");
        }
    }
}
