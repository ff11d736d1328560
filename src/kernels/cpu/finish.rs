//! Epilogue: applied to a vector of sums as it is stored.

use super::simd::Simd;

/// Destination of sums, and what is applied to them in this order (null or false is skipped): `v = sum * scale` by
/// channel;
/// 0 where `keep` has no bit; `+ residual`; Relu; stored in `y` with its `mask` of `y > 0`.
///
/// All values are in the layout of `y`, all masks in one layout. Masks need a multiple of 8 channels (of a group).
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

// SAFETY: shared by the threads of one parallel loop, which write disjoint elements; see each loop.
unsafe impl Send for Finish {}
// SAFETY: as above.
unsafe impl Sync for Finish {}

impl Finish {
    /// Whether a mask is read or written.
    pub fn masked(&self) -> bool {
        !self.keep.is_null() || !self.mask.is_null()
    }

    /// Whether sums are stored unchanged.
    #[inline(always)]
    pub fn plain(&self) -> bool {
        let nothing = self.scale.is_null() && self.keep.is_null() && self.residual.is_null();
        nothing && !self.relu && self.mask.is_null()
    }

    /// Stores a vector. `at`: offset in `y`; `channel`: its first channel; `byte`: offset of its first mask byte.
    ///
    /// # Safety
    /// The processor has the instruction set; all non-null pointers are valid for a vector at these offsets, and
    /// nothing
    /// else accesses what is written during the call.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(&self, at: usize, channel: usize, byte: usize, mut v: S::V) {
        // SAFETY: upheld by the caller.
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

    /// Stores less than a vector, value by value.
    ///
    /// # Safety
    /// As [`Finish::store`], for the given number of values; with masks, these are whole bytes.
    #[inline(never)]
    pub unsafe fn store_part(&self, at: usize, channel: usize, byte: usize, values: &[f32]) {
        // SAFETY: upheld by the caller.
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
/// `p` is valid for the bits of a vector.
#[inline(always)]
unsafe fn bits<S: Simd>(p: *const u8) -> u32 {
    // SAFETY: upheld by the caller.
    unsafe {
        let mut bits = 0;
        for byte in 0..S::LANES / 8 {
            bits |= u32::from(*p.add(byte)) << (byte * 8);
        }
        bits
    }
}

/// # Safety
/// `p` is valid for the bits of a vector.
#[inline(always)]
unsafe fn set_bits<S: Simd>(p: *mut u8, bits: u32) {
    // SAFETY: upheld by the caller.
    unsafe {
        for byte in 0..S::LANES / 8 {
            *p.add(byte) = (bits >> (byte * 8)) as u8;
        }
    }
}
