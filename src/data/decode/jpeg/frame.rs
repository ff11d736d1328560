//! The frame of a JPEG file: its components, their planes of samples, and the coefficients of progressive files.

use super::damage::Damage;

/// One colour component.
pub struct Component {
    pub id: u8,
    /// Blocks of one unit (MCU) across and down.
    pub sampling: [usize; 2],
    /// Index of its quantisation table, and the table as it was at its first scan.
    pub table: usize,
    pub quantisation: Option<[u16; 64]>,
    /// Pixels of the image that a sample covers, across and down.
    pub across: usize,
    pub down: usize,
    /// Samples that belong to the image.
    pub width: usize,
    pub height: usize,
    /// Blocks that a scan of this component alone has, across and down.
    pub own_blocks: [usize; 2],
    /// Blocks that are stored, units at the edge made whole.
    pub stride_blocks: usize,
    pub rows_blocks: usize,
    /// Samples, `stride_blocks` * 8 in a row.
    pub plane: Vec<u8>,
    /// Coefficients of a progressive file, 64 a block, row by row.
    pub coefficients: Vec<i16>,
    /// Of each coefficient the lowest bit that has been read; None: nothing yet.
    pub precision: [Option<u8>; 64],
    /// Value that the next block's first coefficient is a difference to.
    pub predicted: i32,
}

impl Component {
    fn new(id: u8, sampling: [usize; 2], table: u8) -> Self {
        Self {
            id,
            sampling,
            table: table.into(),
            quantisation: None,
            across: 1,
            down: 1,
            width: 0,
            height: 0,
            own_blocks: [0; 2],
            stride_blocks: 0,
            rows_blocks: 0,
            plane: Vec::new(),
            coefficients: Vec::new(),
            precision: [None; 64],
            predicted: 0,
        }
    }

    /// Samples of row `y`.
    pub fn row(&self, y: usize) -> &[u8] {
        let stride = self.stride_blocks * 8;
        &self.plane[y * stride..][..stride]
    }

    /// Puts an 8x8 block in its place.
    pub fn store(&mut self, [x, y]: [usize; 2], samples: &[[u8; 8]; 8]) {
        let stride = self.stride_blocks * 8;
        let start = y * 8 * stride + x * 8;
        for (row, samples) in self.plane[start..].chunks_mut(stride).zip(samples) {
            row[..8].copy_from_slice(samples);
        }
    }

    pub fn blocks(&self) -> usize {
        self.stride_blocks * self.rows_blocks
    }

    /// True if every coefficient has arrived in full.
    pub fn is_complete(&self) -> bool {
        self.precision.iter().all(|low| *low == Some(0))
    }
}

/// What the header of the frame says.
pub struct Frame {
    /// Height and width.
    pub size: [usize; 2],
    pub progressive: bool,
    pub components: Vec<Component>,
    /// Units (MCUs) of a scan of all components, across and down.
    pub units: [usize; 2],
}

impl Frame {
    /// From the content of a start-of-frame segment. Nothing is allocated for the image yet.
    pub fn parse(segment: &[u8], progressive: bool) -> Result<Self, Damage> {
        let [precision, h1, h0, w1, w0, count, parts @ ..] = segment else { return Err(Damage::Header) };
        if *precision != 8 {
            return Err(Damage::Unsupported(format!("a JPEG file of {precision} bits per sample")));
        }
        let size = [u16::from_be_bytes([*h1, *h0]), u16::from_be_bytes([*w1, *w0])].map(usize::from);
        if size.contains(&0) {
            return Err(Damage::NoPixels);
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(Damage::Unsupported(format!("a JPEG file of {count} colour components")));
        }
        if parts.len() != usize::from(*count) * 3 {
            return Err(Damage::Header);
        }
        let mut components = Vec::new();
        for part in parts.chunks_exact(3) {
            let sampling = [usize::from(part[1] >> 4), usize::from(part[1] & 15)];
            let twice = components.iter().any(|c: &Component| c.id == part[0]);
            if sampling.iter().any(|s| !(1..=4).contains(s)) || part[2] > 3 || twice {
                return Err(Damage::Header);
            }
            components.push(Component::new(part[0], sampling, part[2]));
        }
        Self::measured(size, progressive, components)
    }

    /// Works out the components' sizes.
    fn measured(size: [usize; 2], progressive: bool, mut components: Vec<Component>) -> Result<Self, Damage> {
        let most = [0, 1].map(|axis| components.iter().map(|c| c.sampling[axis]).max().unwrap_or(1));
        let units = [size[1].div_ceil(8 * most[0]), size[0].div_ceil(8 * most[1])];
        for c in &mut components {
            let [h, v] = c.sampling;
            if most[0] % h != 0 || most[1] % v != 0 {
                return Err(Damage::Unsupported("a JPEG file of fractional sampling factors".into()));
            }
            (c.across, c.down) = (most[0] / h, most[1] / v);
            (c.width, c.height) = (size[1].div_ceil(c.across), size[0].div_ceil(c.down));
            c.own_blocks = [c.width.div_ceil(8), c.height.div_ceil(8)];
            (c.stride_blocks, c.rows_blocks) = (units[0] * h, units[1] * v);
        }
        Ok(Self { size, progressive, components, units })
    }

    /// Bytes that decoding takes at its height, the result included.
    pub fn bytes(&self) -> u64 {
        let samples: usize = self.components.iter().map(|c| c.blocks() * 64).sum();
        let channels = if self.components.len() == 1 { 1 } else { 3 };
        let result = self.size[0] * self.size[1] * channels;
        // coefficients are 16 bits, and gone before the result is made
        (samples + if self.progressive { result.max(samples * 2) } else { result }) as u64
    }

    /// Makes room for the image.
    pub fn allocate(&mut self) {
        for c in &mut self.components {
            let samples = c.blocks() * 64;
            c.plane = vec![0; samples];
            c.coefficients = if self.progressive { vec![0; samples] } else { Vec::new() };
        }
    }

    /// Turns the coefficients of a progressive file into samples.
    pub fn finish(&mut self) -> Result<(), Damage> {
        for c in &mut self.components {
            if !c.is_complete() {
                return Err(Damage::Scans);
            }
            let quantisation = c.quantisation.ok_or(Damage::Header)?;
            let coefficients = std::mem::take(&mut c.coefficients);
            for (i, block) in coefficients.as_chunks::<64>().0.iter().enumerate() {
                let at = [i % c.stride_blocks, i / c.stride_blocks];
                c.store(at, &super::idct::block(block, &quantisation));
            }
        }
        Ok(())
    }
}
