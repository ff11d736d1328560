//! Takes the backdoor out of an image classifier in ONNX: trains one small layer on a few clean images, inserts it into the
//! file, and has a second runtime check what was written.
//!
//! [`pipeline`] is the product: [`pipeline::purify`], [`pipeline::scan`], [`pipeline::evaluate`] and [`pipeline::verify`],
//! each complete and checked. A [`pipeline::Job`] takes a model ([`onnx::Model`]) and images ([`data`]); what comes back is
//! data, which [`report`] renders. [`rewrite`] holds the layer's file form and takes a layer out again. Images and values
//! are (N, C, H, W) throughout, memory is in bytes, rates are in percent.

#![deny(missing_docs)]

mod base;
pub mod data;
pub mod onnx;
pub mod pipeline;
pub mod report;
pub mod rewrite;

#[cfg(feature = "cli")]
#[allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)] // help texts, which are no Markdown
pub mod cli;

/// For the crate's own tests and benches, outside of any promise: anything here may change or go in any version.
#[doc(hidden)]
#[path = ""] // the rooms stand beside this file
pub mod internals {
    pub mod graph;
    pub mod kernels;
    pub mod layer;
    pub mod network;
    pub mod ops;
    pub mod scan;
    pub mod site;
    pub mod train;
    pub mod verify;

    /// The file as bytes.
    #[path = "onnx"]
    pub mod onnx {
        pub mod schema;
        pub mod splice;
        pub mod wire;
    }

    pub use crate::base::digest;
}

pub use base::{device, error, memory, profile, runtime};
pub use error::{Error, Result};
pub use internals::kernels::Aligned;

pub(crate) use base::lanes;
pub(crate) use internals::{graph, kernels, layer, network, ops, scan, site, train, verify};
