//! Decoding: `decode FOLDER` reads all images of a folder as the preset `imagenet` has them, again and again for five
//! seconds, and prints the images per second; `decode --values FILE OUT` writes the pixels of an image file as they are
//! (height, width and channels as 32-bit little-endian numbers, then bytes). `benches/decode.py` and
//! `tests/scripts/jpeg_differences.py` call it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use polarizer::data::{Folder, ImageSet, Picture, Pixels, Preprocessing};

/// The allocator of the command.
#[global_allocator]
static ALLOCATOR: polarizer::Aligned = polarizer::Aligned;

const BATCH: usize = 64;
const ENOUGH: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--values", file, out] => values(Path::new(file), Path::new(out)),
        [folder] => speed(Path::new(folder)),
        _ => {
            println!("ignored: name a folder of images");
            Ok(())
        }
    }
}

fn speed(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let preprocessing = Preprocessing::preset("imagenet")?;
    let target = preprocessing.target(3, None)?;
    let folder = Folder::clean(path)?;
    let classes = folder.classes();
    let set = ImageSet::open(&folder, &classes, &target)?;
    let all: Vec<usize> = (0..set.len()).collect();
    let (start, mut images, mut sum) = (Instant::now(), 0, 0.0);
    'timed: loop {
        for batch in all.chunks(BATCH) {
            sum += f64::from(set.normalized(batch, &preprocessing)?[0]);
            images += batch.len();
            if start.elapsed() > ENOUGH {
                break 'timed;
            }
        }
    }
    let speed = images as f64 / start.elapsed().as_secs_f64();
    println!("{speed:.1} images/s on {} threads ({sum:.3})", rayon::current_num_threads());
    Ok(())
}

fn values(file: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let picture = Picture::read(file)?;
    let [h, w] = picture.size;
    let mut bytes: Vec<u8> =
        [h, w, picture.channels].iter().flat_map(|&n| (n as u32).to_le_bytes()).collect();
    let Pixels::U8(pixels) = picture.pixels else { return Err("decoded as floats".into()) };
    bytes.extend(pixels);
    Ok(std::fs::write(out, bytes)?)
}
