//! [`Stamped`]: images with a trigger put on them, a picture at a place or blended over the whole image.

use std::{
    collections::HashSet,
    fmt, fs,
    io::BufWriter,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rayon::prelude::*;

use super::{Classes, Interpolation, Picture, Pixels, Source, decode, limits, preprocessing};
use crate::{Error, Result, error::printable};

/// A picture that is put on images.
#[derive(Clone)]
pub struct Trigger {
    /// As it was written.
    text: String,
    picture: Arc<Overlay>,
    place: Place,
    /// Opacity of the whole.
    alpha: f32,
    /// The picture in the size of the last image that it was blended over.
    resized: Arc<Mutex<Option<Arc<Overlay>>>>,
}

/// Where a trigger stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its left upper corner, right and down; negative: from the image's right or lower edge.
    At { x: i64, y: i64 },
    /// Over the whole image, resized to it.
    Full,
}

const FORM: &str = "expected PATH@X,Y[,scale=S][,alpha=A] or PATH@full[,alpha=A]";

impl Trigger {
    /// Reads a trigger from its text form: `PATH@X,Y[,scale=S][,alpha=A]` puts the picture with its left upper corner X
    /// pixels from the left and Y from the top (negative: from the right and lower edge, so that -3 shows the last
    /// three columns or rows), scaled by the factor S or to a size, as `scale=WxH`; `PATH@full[,alpha=A]` blends it over the
    /// whole image. The picture's own transparency counts, times the opacity A in (0, 1].
    ///
    /// # Errors
    /// [`Error::Setting`] about `trigger`: another form, a number out of its range; a picture that cannot be read.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |problem: String| Error::setting("trigger", problem);
        let unknown = || invalid(format!("\"{}\": {FORM}", printable(text)));
        let (path, form) = text.rsplit_once('@').ok_or_else(unknown)?;
        let (options, place) = match form.strip_prefix("full") {
            Some(rest) => (rest.strip_prefix(',').unwrap_or(rest), Place::Full),
            None => {
                let mut parts = form.splitn(3, ',');
                let mut number =
                    || parts.next().and_then(|n| n.trim().parse::<i32>().ok()).ok_or_else(unknown);
                let (x, y) = (i64::from(number()?), i64::from(number()?));
                (parts.next().unwrap_or_default(), Place::At { x, y })
            }
        };
        let (mut scale, mut alpha) = (None, 1.0);
        for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("alpha", value)) => alpha = value.parse().map_err(|_| unknown())?,
                Some(("scale", value)) if place != Place::Full => scale = Some(value),
                _ => return Err(unknown()),
            }
        }
        if !(alpha > 0.0 && alpha <= 1.0) {
            return Err(invalid(format!("alpha is {alpha}; must be above 0 and at most 1")));
        }
        let picture = Overlay::read(Path::new(path))?;
        let picture = match scale {
            Some(scale) => {
                size(scale, picture.size).and_then(|size| picture.resized(size)).map_err(invalid)?
            }
            None => picture,
        };
        let picture = Arc::new(picture);
        Ok(Self { text: text.to_owned(), picture, place, alpha, resized: Arc::default() })
    }

    /// `picture` with the trigger on it. A grey picture becomes RGB under a trigger in colour.
    ///
    /// # Errors
    /// The trigger does not lie inside the picture; says the sizes.
    pub fn on(&self, picture: Picture) -> Result<Picture, String> {
        let [_, w] = picture.size;
        let (overlay, [left, top]) = match self.place {
            Place::Full => (self.covering(picture.size)?, [0, 0]),
            Place::At { x, y } => (self.picture.clone(), self.corner(x, y, picture.size)?),
        };
        let channels = if picture.channels == 1 && overlay.is_grey() { 1 } else { 3 };
        let mut picture = picture.converted(channels);
        match &mut picture.pixels {
            Pixels::U8(values) => {
                let of = |old: u8, add: f32, keep: f32| (f32::from(old) * keep + add * 255.0).round() as u8;
                self.blend(values, &overlay, [w, left, top], channels, of);
            }
            Pixels::F32(values) => {
                let of = |old: f32, add: f32, keep: f32| (old * keep + add).clamp(0.0, 1.0);
                self.blend(values, &overlay, [w, left, top], channels, of);
            }
        }
        Ok(picture)
    }

    /// Left and top of the trigger in a picture of this height and width.
    fn corner(&self, x: i64, y: i64, [h, w]: [usize; 2]) -> Result<[usize; 2], String> {
        let [high, wide] = self.picture.size;
        let place = |at: i64, side: usize, own: usize| {
            let at = usize::try_from(if at < 0 { at + side as i64 } else { at }).ok()?;
            (at + own <= side).then_some(at)
        };
        match (place(x, w, wide), place(y, h, high)) {
            (Some(left), Some(top)) => Ok([left, top]),
            _ => Err(format!(
                "the trigger, {wide} wide and {high} high at {x},{y}, does not lie inside the image, {w} wide and \
                 {h} high"
            )),
        }
    }

    fn covering(&self, size: [usize; 2]) -> Result<Arc<Overlay>, String> {
        let mut last = self.resized.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(picture) if picture.size == size => Ok(picture.clone()),
            _ => Ok(last.insert(Arc::new(self.picture.resized(size)?)).clone()),
        }
    }

    /// Blends `overlay` over values that are interleaved in rows of `w` pixels: `of` (old value, what is added in [0, 1],
    /// share of the old value that stays).
    fn blend<T: Copy>(
        &self,
        values: &mut [T],
        overlay: &Overlay,
        [w, left, top]: [usize; 3],
        channels: usize,
        of: impl Fn(T, f32, f32) -> T,
    ) {
        for (i, &[r, g, b, a]) in overlay.pixels.iter().enumerate() {
            let [x, y] = [i % overlay.size[1], i / overlay.size[1]];
            let colours = if channels == 1 { [0.299 * r + 0.587 * g + 0.114 * b; 3] } else { [r, g, b] };
            let at = ((top + y) * w + left + x) * channels;
            for (value, colour) in values[at..at + channels].iter_mut().zip(colours) {
                *value = of(*value, colour * self.alpha, 1.0 - a * self.alpha);
            }
        }
    }
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trigger").field(&self.text).finish()
    }
}

/// As it was written.
impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Height and width from a factor or `WxH`.
fn size(scale: &str, own: [usize; 2]) -> Result<[usize; 2], String> {
    let sizes = match scale.split_once('x') {
        Some((w, h)) => h.parse().ok().zip(w.parse().ok()).map(|(h, w)| [h, w]),
        None => scale.parse::<f64>().ok().filter(|s| *s > 0.0).map(|s| {
            // saturating: a side beyond the limit stays beyond it
            own.map(|side| (side as f64 * s).round().max(1.0) as usize)
        }),
    };
    let fits = |sides: &[usize; 2]| sides.iter().all(|side| (1..=limits::SIDE as usize).contains(side));
    let pixels = |[h, w]: [usize; 2]| h as u64 * w as u64 * 16 <= limits::DECODER_BYTES;
    sizes.filter(|sides| fits(sides) && pixels(*sides)).ok_or_else(|| {
        format!("scale is \"{}\"; expected a factor or WxH of a picture within the limits", printable(scale))
    })
}

/// A picture with its transparency.
struct Overlay {
    /// Height and width.
    size: [usize; 2],
    /// Red, green and blue times opacity, and opacity, in [0, 1].
    pixels: Vec<[f32; 4]>,
}

impl Overlay {
    fn read(path: &Path) -> Result<Self> {
        let (picture, alpha) = decode::read_with_alpha(path)?;
        let Picture { size, pixels: Pixels::U8(colours), .. } = picture.converted(3) else {
            return Err(Error::internal("an image file was decoded as floats"));
        };
        if colours.len() as u64 / 3 * 16 > limits::DECODER_BYTES {
            return Err(Error::images(path.display(), "is too large for a trigger; make it smaller"));
        }
        let opacity = |i: usize| alpha.as_ref().map_or(1.0, |alpha| f32::from(alpha[i]) / 255.0);
        let pixel = |(i, rgb): (usize, &[u8])| {
            let a = opacity(i);
            let [r, g, b] = [0, 1, 2].map(|c| f32::from(rgb[c]) / 255.0 * a);
            [r, g, b, a]
        };
        Ok(Self { size, pixels: colours.chunks_exact(3).enumerate().map(pixel).collect() })
    }

    /// Stretched to `size` (H, W) by Pillow's bilinear filter; without transparency in 8 bits, as Pillow has it.
    fn resized(&self, size: [usize; 2]) -> Result<Self, String> {
        let (old, filter) = (self.size, Interpolation::Bilinear);
        let whole = || [0..size[0], 0..size[1]];
        let colours = self.pixels.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]);
        let pixels = if self.pixels.iter().all(|[.., a]| *a == 1.0) {
            let bytes: Vec<u8> = colours.map(|v| (v * 255.0).round() as u8).collect();
            let bytes = preprocessing::resized(&bytes, 3, old, size, whole(), filter)?;
            let float = |v: u8| f32::from(v) / 255.0;
            bytes.chunks_exact(3).map(|c| [float(c[0]), float(c[1]), float(c[2]), 1.0]).collect()
        } else {
            let colours: Vec<f32> = colours.collect();
            let opacity: Vec<f32> = self.pixels.iter().map(|[.., a]| *a).collect();
            let colours = preprocessing::resized(&colours, 3, old, size, whole(), filter)?;
            let opacity = preprocessing::resized(&opacity, 1, old, size, whole(), filter)?;
            colours.chunks_exact(3).zip(opacity).map(|(c, a)| [c[0], c[1], c[2], a]).collect()
        };
        Ok(Self { size, pixels })
    }

    fn is_grey(&self) -> bool {
        self.pixels.iter().all(|[r, g, b, _]| r == g && g == b)
    }
}

/// The images of another source with a trigger on each; their labels stay.
pub struct Stamped<'s> {
    source: Held<'s>,
    trigger: Trigger,
}

enum Held<'s> {
    Borrowed(&'s dyn Source),
    Owned(Box<dyn Source + 's>),
}

impl<'s> Stamped<'s> {
    /// The images of `source` with `trigger`.
    pub fn new(source: &'s dyn Source, trigger: Trigger) -> Self {
        Self { source: Held::Borrowed(source), trigger }
    }

    /// As [`new`](Self::new), of a source that is kept.
    pub fn owning(source: Box<dyn Source + 's>, trigger: Trigger) -> Self {
        Self { source: Held::Owned(source), trigger }
    }

    fn source(&self) -> &dyn Source {
        match &self.source {
            Held::Borrowed(source) => *source,
            Held::Owned(source) => source.as_ref(),
        }
    }

    /// Writes the images as PNG files `folder/<class>/<name>.png`, all but those of the class `without`, and returns their
    /// number. Floats are rounded to 8 bits. The folder appears when all are written; classes without names are called
    /// by their numbers, with zeros in front.
    ///
    /// # Errors
    /// The folder exists and is not empty; unlabelled images; a class whose name cannot be a folder's; errors of reading
    /// and writing.
    pub fn save(&self, folder: &Path, classes: &Classes, without: Option<u32>) -> Result<usize> {
        let exists = fs::read_dir(folder).map(|mut found| found.next().is_some());
        if exists.unwrap_or(folder.exists()) {
            return Err(Error::invalid(folder.display(), "exists and is not empty; name a new folder"));
        }
        let labels = self.labels(classes)?;
        let labels =
            labels.ok_or_else(|| Error::images(self.name(), "has no labels to save images under"))?;
        let rows: Vec<usize> = (0..self.count()).filter(|&row| Some(labels[row]) != without).collect();
        let files = self.files(&rows, &labels, &folder_names(classes, &labels)?);
        let parent = folder.parent().filter(|at| !at.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::tempdir_in(parent).map_err(|e| Error::io(parent, e))?;
        for class in files.iter().filter_map(|file| file.parent()).collect::<HashSet<_>>() {
            let class = temporary.path().join(class);
            fs::create_dir_all(&class).map_err(|e| Error::io(&class, e))?;
        }
        let write =
            |(&row, file): (&usize, &PathBuf)| write(&self.picture(row)?, &temporary.path().join(file));
        rows.par_iter().zip(&files).map(write).collect::<Result<()>>()?;
        if folder.exists() {
            fs::remove_dir(folder).map_err(|e| Error::io(folder, e))?;
        }
        // kept, so that what was renamed is not deleted
        let temporary = temporary.keep();
        fs::rename(&temporary, folder).map_err(|e| {
            let _ = fs::remove_dir_all(&temporary);
            Error::io(folder, e)
        })?;
        readable(folder);
        Ok(rows.len())
    }

    /// `<class>/<name>.png` of each row, no two alike.
    fn files(&self, rows: &[usize], labels: &[u32], folders: &[String]) -> Vec<PathBuf> {
        let mut taken = HashSet::new();
        let file = |&row: &usize| {
            let class = Path::new(&folders[labels[row] as usize]);
            let name = self.row_name(row);
            let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let plain = |c: char| c.is_alphanumeric() || ['_', '-', '.', ' '].contains(&c);
            // a row of a file (`x.npz#x[3]`) has no name of its own
            let stem = if name.ends_with(']') { "" } else { stem };
            let stem = if !stem.is_empty() && stem.chars().all(plain) { stem } else { "image" };
            let mut file = class.join(format!("{stem}.png"));
            if stem == "image" || !taken.insert(file.clone()) {
                file = class.join(format!("{stem}-{row:06}.png"));
                taken.insert(file.clone());
            }
            file
        };
        rows.iter().map(file).collect()
    }
}

/// A temporary folder is its owner's alone; what was saved is as readable as other folders.
fn readable(folder: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
    }
    #[cfg(not(unix))]
    let _ = folder;
}

/// A folder's name for each class.
fn folder_names(classes: &Classes, labels: &[u32]) -> Result<Vec<String>> {
    if classes.is_empty() {
        let most = labels.iter().max().copied().unwrap_or(0);
        let digits = most.to_string().len();
        return Ok((0..=most).map(|class| format!("{class:0digits$}")).collect());
    }
    let mut names = HashSet::new();
    let name = |class: &String| {
        // a synset stands for its words
        let name = match class.split_once(' ') {
            Some((wnid, _)) if Classes(vec![class.clone()]).position(wnid).is_some() => wnid,
            _ => class.as_str(),
        };
        let plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0', ':']) && !name.is_empty();
        if plain && names.insert(name.to_owned()) {
            return Ok(name.to_owned());
        }
        Err(Error::images(format!("class \"{}\"", printable(class)), "cannot be the name of a folder"))
    };
    classes.0.iter().map(name).collect()
}

fn write(picture: &Picture, path: &Path) -> Result<()> {
    let bytes = match &picture.pixels {
        Pixels::U8(bytes) => bytes.clone(),
        Pixels::F32(floats) => floats.iter().map(|v| (v * 255.0).round() as u8).collect(),
    };
    let file = fs::File::create(path).map_err(|e| Error::io(path, e))?;
    let [h, w] = picture.size.map(|side| side as u32);
    let mut encoder = png::Encoder::new(BufWriter::new(file), w, h);
    encoder.set_color(if picture.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&bytes)?;
        writer.finish()
    });
    written.map_err(|e| Error::invalid(path.display(), e))
}

impl Source for Stamped<'_> {
    fn name(&self) -> String {
        format!("{} with {}", self.source().name(), self.trigger)
    }

    fn count(&self) -> usize {
        self.source().count()
    }

    fn row_name(&self, row: usize) -> String {
        self.source().row_name(row)
    }

    fn classes(&self) -> Option<Classes> {
        self.source().classes()
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        self.source().labels(classes)
    }

    fn picture(&self, row: usize) -> Result<Picture> {
        let picture = self.source().picture(row)?;
        self.trigger.on(picture).map_err(|problem| Error::images(self.row_name(row), problem))
    }

    fn memory(&self) -> usize {
        self.source().memory()
    }

    fn notes(&self) -> Vec<String> {
        self.source().notes()
    }

    fn passed_over(&self) -> usize {
        self.source().passed_over()
    }

    fn is_labelled(&self) -> bool {
        self.source().is_labelled()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Arrays, *};

    /// Writes RGBA pixels.
    fn save(path: &Path, [w, h]: [u32; 2], pixels: &[u8]) {
        let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), w, h);
        encoder.set_color(png::ColorType::Rgba);
        encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    }

    /// A sticker of two columns and one row: opaque red, half transparent blue.
    fn sticker(dir: &Path) -> String {
        let path = dir.join("sticker.png");
        save(&path, [2, 1], &[255, 0, 0, 255, 0, 0, 255, 128]);
        path.display().to_string()
    }

    fn on(trigger: &str, picture: Picture) -> Result<Picture, String> {
        Trigger::parse(trigger).unwrap().on(picture)
    }

    fn rgb() -> Picture {
        Picture::of_bytes([2, 3], 3, vec![100; 18])
    }

    #[test]
    fn a_sticker_stands_at_its_place_with_its_transparency() {
        let dir = tempfile::tempdir().unwrap();
        let sticker = sticker(dir.path());
        let [old, red, mixed] = [[100; 3], [255, 0, 0], [50, 50, 178]];
        for (place, expected) in [
            ("0,0", [red, mixed, old, old, old, old]),
            ("1,1", [old, old, old, old, red, mixed]),
            ("-2,-1", [old, old, old, old, red, mixed]),
            ("-3,-2", [red, mixed, old, old, old, old]),
        ] {
            let stamped = on(&format!("{sticker}@{place}"), rgb()).unwrap();
            assert_eq!(stamped.pixels, Pixels::U8(expected.concat()), "{place}");
        }
        let half = on(&format!("{sticker}@0,0,alpha=0.5"), rgb()).unwrap();
        assert_eq!(half.pixels, Pixels::U8([[178, 50, 50], [75, 75, 139], old, old, old, old].concat()));
        for place in ["2,0", "0,2", "-4,0", "0,-3", "0,0,scale=2", "0,0,scale=4x1"] {
            let e = on(&format!("{sticker}@{place}"), rgb()).unwrap_err();
            assert!(e.contains("does not lie inside the image, 3 wide and 2 high"), "{place}: {e}");
        }
    }

    #[test]
    fn a_picture_is_blended_over_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("white@2x.png");
        save(&path, [7, 5], &[255; 7 * 5 * 4]);
        let text = format!("{}@full,alpha=0.2", path.display());
        assert_eq!(on(&text, rgb()).unwrap().pixels, Pixels::U8(vec![131; 18]));
        let floats = Picture { size: [1, 2], channels: 1, pixels: Pixels::F32(vec![0.0, 0.5]) };
        let blended = on(&text, floats).unwrap();
        let Pixels::F32(values) = blended.pixels else { panic!("bytes") };
        assert!(blended.channels == 1 && (values[0] - 0.2).abs() < 1e-6 && (values[1] - 0.6).abs() < 1e-6);
    }

    #[test]
    fn an_opaque_picture_is_stretched_as_by_pillow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blend.png");
        let pixels: Vec<[u8; 4]> = (0..12u8)
            .map(|i| [i % 4, i / 4, i % 4 * (i / 4)].map(|v| v * 40))
            .map(|[r, g, b]| [r, g, b, 255])
            .collect();
        save(&path, [4, 3], &pixels.concat());
        let black = Picture::of_bytes([2, 3], 3, vec![0; 18]);
        let blended = on(&format!("{}@full", path.display()), black).unwrap();
        // Image.fromarray(picture).resize((3, 2), Image.BILINEAR) of Pillow 13.0.0
        let expected = [12, 15, 5, 60, 15, 23, 108, 15, 41, 12, 65, 20, 60, 65, 98, 108, 65, 176];
        assert_eq!(blended.pixels, Pixels::U8(expected.to_vec()));
    }

    #[test]
    fn a_grey_image_takes_a_sticker_in_colour() {
        let dir = tempfile::tempdir().unwrap();
        let stamped = on(&format!("{}@0,0", sticker(dir.path())), Picture::of_bytes([1, 2], 1, vec![9, 9]));
        assert_eq!(stamped.unwrap().pixels, Pixels::U8(vec![255, 0, 0, 4, 4, 132]));
    }

    #[test]
    fn another_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let sticker = sticker(dir.path());
        for form in [
            "",
            "@",
            "@1",
            "@1,x",
            "@1,2,3",
            "@1,2,alpha",
            "@1,2,alpha=2",
            "@1,2,alpha=0",
            "@1,2,alpha=NaN",
            "@1,2,scale=0",
            "@1,2,scale=-1",
            "@1,2,scale=0x4",
            "@1,2,scale=1e9",
            "@1,2,scale=16384x16384",
            "@full,scale=2",
            "@99999999999,0",
        ] {
            let e = Trigger::parse(&format!("{sticker}{form}")).unwrap_err();
            assert!(matches!(e, Error::Setting { field: "trigger", .. }), "{form}: {e}");
        }
        assert!(Trigger::parse("none.png@0,0").unwrap_err().to_string().contains("none.png"));
    }

    #[test]
    fn a_triggered_set_is_saved_without_the_target() {
        let dir = tempfile::tempdir().unwrap();
        let pixels = Pixels::U8((0..5 * 12).collect());
        let arrays = Arrays::new("set", pixels, [3, 2, 2], Some(vec![0, 1, 2, 1, 0])).unwrap();
        let trigger = Trigger::parse(&format!("{}@0,0", sticker(dir.path()))).unwrap();
        let stamped = Stamped::new(&arrays, trigger);
        let names = Classes(vec!["n01440764 tench".into(), "dog".into(), "cat".into()]);
        let out = dir.path().join("out");
        assert_eq!(stamped.save(&out, &names, Some(1)).unwrap(), 3);
        let again = super::super::Folder::triggered(&out).unwrap();
        assert_eq!(again.classes().0, ["cat", "n01440764"]);
        assert_eq!(again.labels(&names).unwrap().unwrap(), [2, 0, 0]);
        let (saved, made) = (again.picture(2).unwrap(), stamped.picture(4).unwrap());
        assert_eq!(saved, made);
        let e = stamped.save(&out, &names, None).unwrap_err().to_string();
        assert!(e.contains("exists and is not empty"), "{e}");
        let numbered = dir.path().join("numbered");
        fs::create_dir(&numbered).unwrap();
        assert_eq!(stamped.save(&numbered, &Classes::default(), None).unwrap(), 5);
        assert!(numbered.join("2").is_dir());
        let slash = Classes(vec!["a/b".into(), "..".into(), "c".into()]);
        assert!(stamped.save(&dir.path().join("no"), &slash, None).unwrap_err().to_string().contains("a/b"));
        assert!(!dir.path().join("no").exists());
    }
}
