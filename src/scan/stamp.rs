//! Small blocks stamped on an image.

/// Side and stride of blocks, in pixels of an image 32 wide, and whether chequered ones are tried (3x3 squares, like
/// the nine-pixel patch of BadNets).
const BLOCKS: [(f32, f32, bool); 2] = [(3.0, 2.0, true), (5.0, 3.0, false)];

/// Filling of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filling {
    /// One value, in [0, 1].
    Flat(f32),
    /// White and black squares with sides of `square` pixels; `white`: the first one is white.
    Chequered { square: usize, white: bool },
}

/// A filled block at a place in the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stamp {
    /// (row, column) of its first pixel.
    pub place: [usize; 2],
    /// (height, width), in pixels.
    pub size: [usize; 2],
    pub filling: Filling,
}

impl Stamp {
    /// All stamps tried on images (H, W).
    pub fn all(height: usize, width: usize) -> Vec<Self> {
        let mut stamps = Vec::new();
        for (side, apart, chequered) in BLOCKS {
            let of = |share: f32, all: usize| ((share * all as f32 / 32.0).round() as usize).clamp(1, all);
            let size = [of(side, height), of(side, width)];
            let starts = |all: usize, size: usize| {
                let mut starts: Vec<usize> = (0..all - size).step_by(of(apart, all)).collect();
                starts.push(all - size);
                starts
            };
            let square = (size[0].min(size[1]) / 3).max(1);
            let mut fillings = vec![Filling::Flat(0.0), Filling::Flat(1.0)];
            if chequered {
                fillings.extend([true, false].map(|white| Filling::Chequered { square, white }));
            }
            for row in starts(height, size[0]) {
                for column in starts(width, size[1]) {
                    stamps.extend(fillings.iter().map(|&filling| Self {
                        place: [row, column],
                        size,
                        filling,
                    }));
                }
            }
        }
        stamps
    }

    /// Stamps an image (H, W, C).
    pub fn onto(&self, image: &mut [f32], width: usize, channels: usize) {
        for row in 0..self.size[0] {
            for column in 0..self.size[1] {
                let start = ((self.place[0] + row) * width + self.place[1] + column) * channels;
                let value = match self.filling {
                    Filling::Flat(value) => value,
                    Filling::Chequered { square, white } => {
                        f32::from(u8::from(((row / square + column / square) % 2 == 0) == white))
                    }
                };
                image[start..start + channels].fill(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_lie_inside_the_image_and_reach_its_corners() {
        for (h, w) in [(32, 32), (33, 20), (1, 1), (3, 7)] {
            let all = Stamp::all(h, w);
            assert!(
                all.iter().all(|s| s.place[0] + s.size[0] <= h && s.place[1] + s.size[1] <= w),
                "{h} {w}"
            );
            assert!(!all.is_empty());
        }
        let all = Stamp::all(32, 32);
        assert_eq!(all.len(), 4 * 16 * 16 + 2 * 10 * 10);
        assert!(all.iter().any(|s| s.place == [29, 29] && s.size == [3, 3]));
        let mut image = vec![0.5; 4 * 4 * 2];
        Stamp { place: [2, 1], size: [1, 2], filling: Filling::Flat(1.0) }.onto(&mut image, 4, 2);
        let white: Vec<usize> = (0..32).filter(|&i| image[i] == 1.0).collect();
        assert_eq!(white, [18, 19, 20, 21]);
        let mut image = vec![0.5; 9];
        let filling = Filling::Chequered { square: 1, white: true };
        Stamp { place: [0, 0], size: [3, 3], filling }.onto(&mut image, 3, 1);
        assert_eq!(image, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    }
}
