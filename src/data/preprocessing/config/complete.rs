//! [`Preprocessing::completed_by`]: what is not stated yet is taken from a file, and what differs is reported.

use std::fmt;

use super::{
    super::{ChannelOrder, Crop, Extent, Origin, Piece, Preprocessing, Resize},
    Stated,
};
use crate::Result;

/// A part that two sources state differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The part of preprocessing.
    pub part: &'static str,
    /// The value that is used, and where it comes from.
    pub used: (String, Origin),
    /// The value that is not, and where that comes from.
    pub other: (String, Origin),
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, used: (used, by), other: (other, otherwise) } = self;
        write!(f, "{part} is {used} ({by}), but {other} in {otherwise}")
    }
}

/// Parts that say together what becomes of a pixel's value.
const VALUES: [&str; 3] = ["mean", "std", "range"];

impl Preprocessing {
    /// With what `stated` says of the parts that are not stated yet. Of the others, each that differs in effect is
    /// returned.
    ///
    /// Mean, std and range belong together: a range is not taken to a mean or std of another source, nor these to
    /// another range. Likewise resize and crop are not taken to a size that is not theirs. A mean and std for the other
    /// order of channels are reversed.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub fn completed_by(mut self, stated: &Stated) -> Result<(Self, Vec<Contradiction>)> {
        let other = stated.alone()?;
        let mut found = Vec::new();
        self = self.channels_from(&other, &mut found)?;
        self = self.geometry_from(&other, &mut found)?;
        self = self.part_from(&other, "interpolation", &mut found)?;
        self = self.values_from(&other, &mut found)?;
        Ok((self, found))
    }

    fn is(&self, name: &str) -> bool {
        self.origin(name) != &Origin::Default
    }

    /// Takes a part from `other` if that states it and this does not.
    fn part_from(self, other: &Self, name: &'static str, found: &mut Vec<Contradiction>) -> Result<Self> {
        match (self.is(name), other.is(name)) {
            (_, false) => Ok(self),
            (false, true) => self.with(name, &shown(other, name), other.origin(name).clone()),
            (true, true) => {
                if shown(&self, name) != shown(other, name) {
                    found.push(self.against(other, name));
                }
                Ok(self)
            }
        }
    }

    fn against(&self, other: &Self, name: &'static str) -> Contradiction {
        let side = |p: &Self| (shown(p, name), p.origin(name).clone());
        Contradiction { part: name, used: side(self), other: side(other) }
    }

    /// The order of channels; a preset's mean and std, red first, follow a file's order.
    fn channels_from(self, other: &Self, found: &mut Vec<Contradiction>) -> Result<Self> {
        let before = self.channels;
        let mut own = self.part_from(other, "channels", found)?;
        if before != ChannelOrder::Bgr && own.channels == ChannelOrder::Bgr {
            for name in ["mean", "std"] {
                if matches!(own.origin(name), Origin::Preset(_)) {
                    if name == "mean" { own.mean.reverse() } else { own.std.reverse() }
                }
            }
        }
        Ok(own)
    }

    fn geometry_from(self, other: &Self, found: &mut Vec<Contradiction>) -> Result<Self> {
        let fits =
            self.size.is_none_or(|size| other.size.is_none_or(|theirs| theirs == size)) || !self.is("size");
        let mut own = self;
        for name in ["resize", "crop", "size"] {
            if !other.is(name) || own.is(name) && own.same_geometry(other, name) {
                continue;
            }
            if own.is(name) || fits {
                own = own.part_from(other, name, found)?;
            }
        }
        Ok(own)
    }

    /// Whether a part of the geometry has the same effect as that of `other`.
    fn same_geometry(&self, other: &Self, name: &str) -> bool {
        let target = self.size.or(other.size);
        match name {
            "resize" => in_pixels(self.resize, target) == in_pixels(other.resize, other.size.or(target)),
            "crop" => cut(self.crop, target) == cut(other.crop, other.size.or(target)),
            _ => self.size == other.size,
        }
    }

    fn values_from(self, other: &Self, found: &mut Vec<Contradiction>) -> Result<Self> {
        if VALUES.iter().all(|name| !self.is(name)) {
            return self.take_values(other, &VALUES);
        }
        if self.same_values(other) || VALUES.iter().all(|name| !other.is(name)) {
            return Ok(self);
        }
        // a range alone scales pixels as they are; beside a mean and std it would scale what they leave
        let alike = self.range == other.range;
        let mut own = self;
        for name in VALUES {
            if !other.is(name) {
                continue;
            }
            if own.is(name) || name == "range" {
                if shown(&own, name) != shown(other, name) {
                    found.push(own.against(other, name));
                }
            } else if alike {
                own = own.take_values(other, &[name])?;
            } else {
                found.push(own.against(other, name));
            }
        }
        Ok(own)
    }

    /// Takes these of mean, std and range, reversed where `other` states them for the other order of channels.
    fn take_values(mut self, other: &Self, names: &[&'static str]) -> Result<Self> {
        let reversed = (self.channels == ChannelOrder::Bgr) != (other.channels == ChannelOrder::Bgr);
        for name in names.iter().filter(|name| other.is(name)) {
            self = self.with(name, &shown(other, name), other.origin(name).clone())?;
            match *name {
                "mean" if reversed => self.mean.reverse(),
                "std" if reversed => self.std.reverse(),
                _ => {}
            }
        }
        Ok(self)
    }

    /// Whether mean, std and range together do to every channel what those of `other` do.
    fn same_values(&self, other: &Self) -> bool {
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * a.abs().max(b.abs()).max(1e-3);
        let reversed = (self.channels == ChannelOrder::Bgr) != (other.channels == ChannelOrder::Bgr);
        (0..3).all(|c| {
            let theirs = if reversed { 2 - c } else { c };
            near(self.mean_of(c), other.mean_of(theirs)) && near(self.std_of(c), other.std_of(theirs))
        })
    }
}

/// A part as text.
fn shown(p: &Preprocessing, name: &str) -> String {
    Piece::named(name).map_or_else(String::new, |piece| piece.show(p))
}

/// A resize whose sizes are in pixels where they are known.
fn in_pixels(resize: Resize, target: Option<[usize; 2]>) -> Resize {
    let sides = |extent: Extent| match (extent, target) {
        (Extent::Target, Some(size)) => Extent::Pixels(size),
        (Extent::CropPct(share), Some(size)) => {
            Extent::Pixels(size.map(|side| (side as f64 / share).floor() as usize))
        }
        (extent, _) => extent,
    };
    let edge = |extent: Extent| match sides(extent) {
        Extent::Pixels([h, w]) => Extent::Pixels([h.max(w); 2]),
        extent => extent,
    };
    match resize {
        Resize::Never => Resize::Never,
        Resize::Stretch(to) => Resize::Stretch(sides(to)),
        Resize::ShortestEdge(to) => Resize::ShortestEdge(edge(to)),
        Resize::LongestEdge(to) => Resize::LongestEdge(edge(to)),
    }
}

/// What a crop leaves, and whether it pads with the mean; how an odd margin is halved is no contradiction.
fn cut(crop: Crop, target: Option<[usize; 2]>) -> Option<(Option<[usize; 2]>, bool)> {
    match crop {
        Crop::None => None,
        Crop::Center(size) | Crop::CenterFloor(size) => Some((size.or(target), false)),
        Crop::Border(size) => Some((size.or(target), true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file named `f` states.
    fn stated(parts: &[(&'static str, &str)]) -> Stated {
        let part = |&(name, text): &(&'static str, &str)| (name, text.to_owned(), Origin::File("f".into()));
        Stated { parts: parts.iter().map(part).collect(), ..Stated::default() }
    }

    fn given(parts: &[(&'static str, &str)]) -> Preprocessing {
        parts
            .iter()
            .fold(Preprocessing::default(), |p, (name, text)| p.with(name, text, Origin::Given).unwrap())
    }

    fn completed(own: Preprocessing, parts: &[(&'static str, &str)]) -> (Preprocessing, Vec<&'static str>) {
        let (p, found) = own.completed_by(&stated(parts)).unwrap();
        (p, found.iter().map(|c| c.part).collect())
    }

    const IMAGENET: [(&str, &str); 8] = [
        ("size", "224"),
        ("resize", "shortest-edge:256"),
        ("crop", "center-floor:224"),
        ("interpolation", "bilinear"),
        ("channels", "rgb"),
        ("mean", "0.485,0.456,0.406"),
        ("std", "0.229,0.224,0.225"),
        ("range", "normalized-0-1"),
    ];

    #[test]
    fn a_file_says_what_is_not_stated() {
        let (p, found) = completed(Preprocessing::default(), &IMAGENET);
        assert_eq!((p.resize, p.size), (Resize::ShortestEdge(Extent::Pixels([256; 2])), Some([224; 2])));
        assert!(p.parts().all(|(_, _, origin)| origin == &Origin::File("f".into())));
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn what_is_the_same_in_effect_is_no_contradiction() {
        let preset = Preprocessing::preset("imagenet").unwrap();
        let (p, found) = completed(preset, &IMAGENET);
        assert_eq!(found, [""; 0]);
        assert_eq!(p.crop, Crop::Center(None));
        let own = given(&[("mean", "0.5"), ("std", "0.5")]);
        let (p, found) = completed(own, &[("range", "normalized-1-1")]);
        assert_eq!((p.range.word(), found), ("normalized-0-1", vec![]));
    }

    #[test]
    fn what_is_stated_is_kept_and_the_difference_said() {
        let own = given(&[("mean", "0"), ("std", "1"), ("resize", "stretch")]);
        let (p, found) = own.completed_by(&stated(&IMAGENET)).unwrap();
        assert_eq!(found.iter().map(|c| c.part).collect::<Vec<_>>(), ["resize", "mean", "std"]);
        assert_eq!(found[1].to_string(), "mean is 0 (given), but 0.485,0.456,0.406 in f");
        assert_eq!((p.resize, p.crop), (Resize::Stretch(Extent::Target), Crop::CenterFloor(Some([224; 2]))));
    }

    #[test]
    fn another_size_leaves_the_files_resize_and_crop_out() {
        let (p, found) = completed(given(&[("size", "32")]), &IMAGENET);
        assert_eq!((p.size, p.resize, p.crop), (Some([32; 2]), Resize::Stretch(Extent::Target), Crop::None));
        assert_eq!(found, ["size"]);
        let (p, found) = completed(given(&[("size", "224")]), &IMAGENET);
        assert_eq!(p.resize, Resize::ShortestEdge(Extent::Pixels([256; 2])));
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn mean_std_and_range_of_different_sources_are_not_mixed() {
        let preset = Preprocessing::preset("imagenet").unwrap();
        let (p, found) = completed(preset, &[("range", "0-255")]);
        assert_eq!((p.range.word(), found), ("normalized-0-1", vec!["range"]));
        let (p, found) = completed(given(&[("range", "0-255")]), &IMAGENET);
        assert_eq!((p.mean, found), (vec![0.0], vec!["mean", "std", "range"]));
        let (p, _) = completed(given(&[("mean", "0.5")]), &IMAGENET);
        assert_eq!((p.mean_of(2), p.std_of(2)), (0.5, 0.225));
    }

    #[test]
    fn mean_and_std_follow_the_order_of_channels() {
        let (p, found) = completed(given(&[("channels", "bgr")]), &IMAGENET);
        assert_eq!((p.mean_of(0), p.std_of(0), found), (0.406, 0.225, vec!["channels"]));
        let preset = Preprocessing::preset("imagenet").unwrap();
        let (p, found) = completed(preset, &[("channels", "bgr")]);
        assert_eq!((p.mean_of(0), p.std_of(0), found), (0.406, 0.225, vec![]));
    }
}
