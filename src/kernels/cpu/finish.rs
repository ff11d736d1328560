//! What is done to a vector of sums on its way to memory.

use super::simd::Simd;

/// Where sums go and what is done to them on the way, in this order; what is null or false is left out:
/// `v = sum * scale` by channel; 0 where `keep` has no bit; `+ residual`; cut below zero; stored in `y` with its `mask` of
/// `y > 0`.
///
/// All values are laid out as `y`, all masks alike. Masks only where the channels (of a group) are a multiple of 8.
#[derive(Clone, Copy)]
pub struct Finish {
    pub y: *mut f32,
    pub scale: *const f32,
    pub keep: *const u8,
    pub residual: *const f32,
    pub relu: bool,
    pub mask: *mut u8,
}

impl Default for Finish {
    fn default() -> Self {
        let (read, write) = (std::ptr::null(), std::ptr::null_mut());
        let bytes = std::ptr::null_mut();
        Self { y: write, scale: read, keep: bytes, residual: read, relu: false, mask: bytes }
    }
}

// SAFETY: shared between the threads of one parallel loop, which write disjoint elements through it; see each loop.
unsafe impl Send for Finish {}
// SAFETY: as above.
unsafe impl Sync for Finish {}

impl Finish {
    /// Any masks are written or read.
    pub fn masked(&self) -> bool {
        !self.keep.is_null() || !self.mask.is_null()
    }

    /// Sums are stored as they are.
    #[inline(always)]
    pub fn plain(&self) -> bool {
        let nothing = self.scale.is_null() && self.keep.is_null() && self.residual.is_null();
        nothing && !self.relu && self.mask.is_null()
    }

    /// Stores a vector: `at` is its place in `y`, `channel` its first channel, `byte` the place of its first mask byte.
    ///
    /// # Safety
    /// The processor has the instruction set; the places hold for a whole vector in all that is not null, and nobody
    /// else touches what is written meanwhile.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(&self, at: usize, channel: usize, byte: usize, mut v: S::V) {
        // SAFETY: the caller's promise.
        unsafe {
            if !self.scale.is_null() {
                v = S::mul(v, S::load(self.scale.add(channel)));
            }
            if !self.keep.is_null() {
                v = S::keep(v, bits::<S>(self.keep.add(byte)));
            }
            if !self.residual.is_null() {
                v = S::add(v, S::load(self.residual.add(at)));
            }
            if self.relu {
                v = S::relu(v);
            }
            S::store(self.y.add(at), v);
            if !self.mask.is_null() {
                set_bits::<S>(self.mask.add(byte), S::positive(v));
            }
        }
    }

    /// Stores less than a vector: `values`, one by one.
    ///
    /// # Safety
    /// As [`Finish::store`], for as many values as there are; with masks, these are whole bytes.
    #[inline(never)]
    pub unsafe fn store_part(&self, at: usize, channel: usize, byte: usize, values: &[f32]) {
        // SAFETY: the caller's promise.
        unsafe {
            for (i, v) in values.iter().enumerate() {
                let mut v = *v;
                if !self.scale.is_null() {
                    v *= *self.scale.add(channel + i);
                }
                if !self.keep.is_null() && *self.keep.add(byte + i / 8) >> (i % 8) & 1 == 0 {
                    v = 0.0;
                }
                if !self.residual.is_null() {
                    v += *self.residual.add(at + i);
                }
                if self.relu && v < 0.0 {
                    v = 0.0;
                }
                *self.y.add(at + i) = v;
                if !self.mask.is_null() {
                    let (to, bit) = (self.mask.add(byte + i / 8), u8::from(v > 0.0) << (i % 8));
                    *to = if i.is_multiple_of(8) { bit } else { *to | bit };
                }
            }
        }
    }
}

/// # Safety
/// `p` is good for a vector's bits.
#[inline(always)]
unsafe fn bits<S: Simd>(p: *const u8) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut bits = 0;
        for byte in 0..S::LANES / 8 {
            bits |= u32::from(*p.add(byte)) << (byte * 8);
        }
        bits
    }
}

/// # Safety
/// `p` is good for a vector's bits.
#[inline(always)]
unsafe fn set_bits<S: Simd>(p: *mut u8, bits: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        for byte in 0..S::LANES / 8 {
            *p.add(byte) = (bits >> (byte * 8)) as u8;
        }
    }
}
