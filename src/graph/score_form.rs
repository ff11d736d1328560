//! What a network's scores of the classes are in its file.

/// What an image's scores are in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScoreForm {
    /// One for each class.
    #[default]
    EachClass,
    /// The probability p of the second of two classes, as [1 - p, p].
    Probability,
    /// The logit z of the second of two classes, as [0, z].
    Logit,
}

impl ScoreForm {
    /// The scores of each class.
    pub fn each_class(self, row: Vec<f32>) -> Vec<f32> {
        match (self, &row[..]) {
            (Self::Probability, [p]) => vec![1.0 - p, *p],
            (Self::Logit, [z]) => vec![0.0, *z],
            _ => row,
        }
    }

    /// Number of classes for a row of `scores` in the file.
    pub fn classes(self, scores: usize) -> usize {
        if self == Self::EachClass { scores } else { 2 }
    }
}
