//! The order of the classes, and where it comes from.

use super::Job;
use crate::{
    Error, Result,
    data::{Classes, Source},
    error::printable,
};

/// The class order and the name of its source in messages.
pub(super) struct Order {
    pub classes: Classes,
    source: Option<String>,
    /// What is to be said of names that are written down beside the model.
    pub note: Option<String>,
}

impl Order {
    /// The class order of the job, else the names written down beside the model if they are those of the first of
    /// `sources` with class names, else that source's, else empty.
    pub fn of(job: &Job<'_>, sources: &[Option<&dyn Source>]) -> Self {
        if let Some(classes) = &job.classes {
            return Self { classes: classes.clone(), source: None, note: None };
        }
        let folders = sources.iter().flatten().find_map(|source| Some((source.classes()?, source.name())));
        let written = job.described.as_ref().and_then(|stated| stated.classes.clone());
        match (folders, written) {
            (None, None) => Self { classes: Classes::default(), source: None, note: None },
            (Some((classes, name)), None) => Self { classes, source: Some(name), note: None },
            (None, Some((classes, origin))) => Self { classes, source: Some(origin), note: None },
            (Some(folders), Some(written)) => Self::among(folders, written),
        }
    }

    fn among((folders, name): (Classes, String), (written, origin): (Classes, String)) -> Self {
        if !folders.0.iter().all(|folder| written.position(folder).is_some()) {
            let note = format!(
                "the class names of {} are not those of {}, whose sorted names are taken for the order",
                printable(&origin),
                printable(&name)
            );
            return Self { classes: folders, source: Some(name), note: Some(note) };
        }
        let sorted =
            folders.0.iter().enumerate().all(|(i, folder)| written.position(folder) == Some(i as u32));
        let note = (!sorted).then(|| format!("the order of the classes is that of {}", printable(&origin)));
        Self { classes: written, source: Some(origin), note }
    }

    /// # Errors
    /// The number of classes is not that of the model's outputs.
    pub fn require_count(&self, outputs: usize) -> Result<()> {
        if self.classes.is_empty() || self.classes.len() == outputs {
            return Ok(());
        }
        let problem = format!("{} classes, but the model has {outputs} outputs", self.classes.len());
        Err(match &self.source {
            Some(name) => Error::invalid(name, problem),
            None => Error::setting("classes", problem),
        })
    }
}
