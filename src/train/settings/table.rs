//! One declaration per setting. A new one is a field of [`Settings`] and an entry here.

use super::{
    AdversaryKind, Named as _, OptimizerKind, Original, PixelPool, Recipe, Schedule, Settings, Start,
    Targets,
    value::{Field, Form, Value},
};
use crate::{Error, Result};

/// A setting: its meaning, syntax, range and the condition under which it applies. Defaults come from the recipes.
#[derive(Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Its name, in snake case.
    pub name: &'static str,
    /// Placeholder of its value, in capitals.
    pub unit: &'static str,
    /// Its meaning, a sentence without a full stop.
    pub about: &'static str,
    /// Syntax and range of its value.
    pub form: Form,
    /// The word for [`Value::Unset`], if that is allowed, and its meaning.
    pub unset: Option<(&'static str, &'static str)>,
    /// Settings and values that make it apply; empty if it always applies.
    pub when: &'static [(&'static str, &'static str)],
    /// The reason why it does not apply, with other settings' names in backquotes.
    pub needs: &'static str,
    /// The value that is equivalent to not applying, if any.
    pub off: Option<Value>,
    /// The fields that it sets, the first of which is read; empty if it does not apply.
    fields: fn(&mut Settings) -> Vec<&mut dyn Field>,
}

impl Setting {
    /// The setting with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// Its value; None if it does not apply.
    pub fn value(&self, settings: &Settings) -> Option<Value> {
        (self.fields)(&mut settings.clone()).first().map(|field| field.value())
    }

    /// Parses `text`.
    ///
    /// # Errors
    /// A message with the expected syntax.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        match self.unset {
            Some((word, _)) if word == text => Ok(Value::Unset),
            _ => self.form.parse(text),
        }
    }

    /// The value as text.
    pub fn show(&self, value: Value) -> String {
        match (value, self.unset) {
            (Value::Unset, Some((word, _))) => word.to_owned(),
            _ => value.to_string(),
        }
    }

    /// Sets a value; has no effect if the setting does not apply.
    pub fn put(&self, settings: &mut Settings, value: Value) {
        for field in (self.fields)(settings) {
            field.put(value);
        }
    }

    /// Whether the settings have this value.
    pub fn holds(&self, settings: &Settings, value: Value) -> bool {
        self.value(settings).or(self.off) == Some(value)
    }

    /// Checks the range of a value.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is out of range.
    pub fn check(&self, value: Value) -> Result<()> {
        self.form.check(value).map_err(|problem| Error::setting(self.name, problem))
    }

    /// Its default in a recipe, or the one after choosing the settings that it depends on.
    pub fn default_in(&self, recipe: Recipe) -> Option<Value> {
        let mut settings = recipe.settings();
        if let Some(value) = self.value(&settings) {
            return Some(value);
        }
        for (name, text) in self.when {
            let needed = Self::named(name)?;
            needed.put(&mut settings, needed.parse(text).ok()?);
        }
        self.value(&settings)
    }

    /// Its defaults as text: `5; published: 50`, or one value if the recipes agree.
    pub fn defaults(&self) -> String {
        let shown = |recipe| self.default_in(recipe).map_or_else(String::new, |value| self.show(value));
        let (own, published) = (shown(Recipe::Default), shown(Recipe::Published));
        if own == published { own } else { format!("{own}; published: {published}") }
    }
}

/// Defaults of the declarations.
const PLAIN: Setting = Setting {
    name: "",
    unit: "N",
    about: "",
    form: Form::Number,
    unset: None,
    when: &[],
    needs: "",
    off: None,
    fields: |_| Vec::new(),
};

const NOTHING_MOVES: &str = "there is no adversary (`adversary` none)";

/// All settings, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "start",
        unit: "KIND",
        about: "Initial layer",
        form: Form::Words(Start::WORDS),
        fields: |s| vec![&mut s.start],
        ..PLAIN
    },
    Setting {
        name: "rank",
        unit: "COMPONENTS",
        about: "Principal components of the clean values that the layer starts from",
        form: Form::Count(1),
        unset: Some(("auto", "as few as keep 98.5 % of the answers on clean images")),
        when: &[("start", "principal")],
        needs: "only a layer with `start` principal has a rank",
        fields: |s| match &mut s.start {
            Start::Principal { rank } => vec![rank],
            _ => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "warmup",
        unit: "EPOCHS",
        about: "Epochs without an adversary, in which the layer's statistics settle",
        form: Form::Count(0),
        when: &[("start", "whitening")],
        needs: "only a layer with `start` whitening warms up; give 0 or choose that start",
        off: Some(Value::Count(0)),
        fields: |s| match &mut s.start {
            Start::Whitening { warmup, .. } => vec![warmup],
            _ => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "warm_lr",
        unit: "RATE",
        about: "Learning rate of the warm-up",
        when: &[("start", "whitening"), ("warmup", "1")],
        needs: "there is no warm-up (`warmup`)",
        fields: |s| match &mut s.start {
            Start::Whitening { warmup: 1.., warm_lr } => vec![warm_lr],
            _ => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "epochs",
        unit: "EPOCHS",
        about: "Epochs against the adversary. Given, it is exact; otherwise there are more where few images would give fewer \
                than `min_steps` steps",
        form: Form::Count(0),
        fields: |s| vec![&mut s.epochs],
        ..PLAIN
    },
    Setting {
        name: "min_steps",
        unit: "STEPS",
        about: "Steps against the adversary at least: with few images there are more epochs. Without effect where `epochs` is \
                given and this is not",
        form: Form::Count(0),
        unset: Some(("none", "as many epochs as `epochs` says")),
        fields: |s| vec![&mut s.min_steps],
        ..PLAIN
    },
    Setting {
        name: "batch",
        unit: "IMAGES",
        about: "Images per step",
        form: Form::Count(1),
        fields: |s| vec![&mut s.batch],
        ..PLAIN
    },
    Setting {
        name: "mirror",
        unit: "BOOL",
        about: "Train on horizontal flips too, where the model gives a flip the class of its image",
        form: Form::Flag,
        fields: |s| vec![&mut s.mirror],
        ..PLAIN
    },
    Setting {
        name: "seed",
        unit: "N",
        about: "Seed of all random draws, the holdout's included",
        form: Form::Count(0),
        fields: |s| vec![&mut s.seed],
        ..PLAIN
    },
    Setting {
        name: "optimizer",
        unit: "KIND",
        about: "Optimizer of the steps against the adversary",
        form: Form::Words(OptimizerKind::WORDS),
        fields: |s| vec![&mut s.optimizer],
        ..PLAIN
    },
    Setting {
        name: "lr",
        unit: "RATE",
        about: "Learning rate of the steps against the adversary, at their start",
        fields: |s| vec![&mut s.lr],
        ..PLAIN
    },
    Setting {
        name: "schedule",
        unit: "KIND",
        about: "Learning-rate schedule; cosine falls to 0",
        form: Form::Words(Schedule::WORDS),
        fields: |s| vec![&mut s.schedule],
        ..PLAIN
    },
    Setting {
        name: "momentum",
        unit: "SHARE",
        about: "Momentum of SGD",
        when: &[("optimizer", "sgd")],
        needs: "Adam has none (`optimizer`)",
        fields: |s| match &mut s.optimizer {
            OptimizerKind::Sgd { momentum, .. } => vec![momentum],
            OptimizerKind::Adam => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "weight_decay",
        unit: "RATE",
        about: "Weight decay of SGD; 0 for a layer with `start` principal",
        when: &[("optimizer", "sgd")],
        needs: "Adam has none (`optimizer`)",
        fields: |s| match &mut s.optimizer {
            OptimizerKind::Sgd { weight_decay, .. } => vec![weight_decay],
            OptimizerKind::Adam => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "adversary",
        unit: "KIND",
        about: "What the adversary of each step changes: pixels, or the values at the layer (latent); none is a control, not a \
                defence",
        form: Form::Words(AdversaryKind::WORDS),
        fields: |s| vec![&mut s.adversary],
        ..PLAIN
    },
    Setting {
        name: "inner_steps",
        unit: "STEPS",
        about: "Steps of the adversary at most",
        form: Form::Count(0),
        when: &[("adversary", "latent")],
        needs: NOTHING_MOVES,
        fields: |s| match &mut s.adversary {
            AdversaryKind::Pixel { steps, .. } | AdversaryKind::Latent { steps, .. } => vec![steps],
            AdversaryKind::None => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "inner_step",
        unit: "LENGTH",
        about: "Length of a step of the adversaries of pixels (that of `adversary` pixel, that of the pool), pixels in 0..1",
        when: &[("adversary", "pixel")],
        needs: "no adversary changes pixels (`adversary`, `pool`)",
        fields: |s| {
            let own: Option<&mut dyn Field> = match &mut s.adversary {
                AdversaryKind::Pixel { step, .. } => Some(step),
                _ => None,
            };
            let pool = s.pool.as_mut().map(|pool| &mut pool.step as &mut dyn Field);
            own.into_iter().chain(pool).collect()
        },
        ..PLAIN
    },
    Setting {
        name: "rho",
        unit: "RADIUS",
        about: "How far the adversary goes at most. Pixels: L2 radius per image; latent: root mean square of the change in \
                standard deviations",
        unset: Some(("auto", "3 sqrt(C H W / 3072), for pixels")),
        when: &[("adversary", "latent")],
        needs: NOTHING_MOVES,
        fields: |s| match &mut s.adversary {
            AdversaryKind::Pixel { rho, .. } => vec![rho],
            AdversaryKind::Latent { rho, .. } => vec![rho],
            AdversaryKind::None => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "stop_share",
        unit: "SHARE",
        about: "The adversary of pixels stops once more than this share of a batch is answered with its target",
        unset: Some(("never", "it takes all its steps")),
        when: &[("adversary", "pixel")],
        needs: "the adversary of the steps changes no pixels (`adversary`)",
        fields: |s| match &mut s.adversary {
            AdversaryKind::Pixel { stop_share, .. } => vec![stop_share],
            _ => vec![],
        },
        ..PLAIN
    },
    Setting {
        name: "targets",
        unit: "KIND",
        about: "Classes that the latent adversary and the pool's push images towards; suspect measures first which classes lie \
                near",
        form: Form::Words(Targets::WORDS),
        when: &[("adversary", "latent")],
        needs: "nothing draws a target (`adversary`, `pool`)",
        fields: |s| {
            let latent = matches!(s.adversary, AdversaryKind::Latent { .. });
            // the scan also scales the retention
            let weighs = s.targets == Targets::Suspect && s.retention > 0.0;
            if latent || s.pool.is_some() || weighs { vec![&mut s.targets] } else { vec![] }
        },
        ..PLAIN
    },
    Setting {
        name: "original",
        unit: "KIND",
        about: "Answers that adversarial images are to keep: those to the clean images with the layer (current) or without it \
                (unchanged), or the labels",
        form: Form::Words(Original::WORDS),
        when: &[("adversary", "latent")],
        needs: NOTHING_MOVES,
        fields: |s| if s.adversary == AdversaryKind::None { vec![] } else { vec![&mut s.original] },
        ..PLAIN
    },
    Setting {
        name: "lambdas",
        unit: "A,B,C,D",
        about: "Weights of the losses: clean images right, adversarial images keep their answers, likeliest wrong class down, \
                target down",
        form: Form::Weights,
        fields: |s| vec![&mut s.lambdas],
        ..PLAIN
    },
    Setting {
        name: "retention",
        unit: "WEIGHT",
        about: "Weight of one more loss: KL divergence of the answers on clean images from those of the original",
        fields: |s| vec![&mut s.retention],
        ..PLAIN
    },
    Setting {
        name: "pool",
        unit: "IMAGES",
        about: "Images that a second adversary, of pixels, attacks a few times in a training; the values it brings to the layer \
                are part of every step's loss. 0: none",
        form: Form::Count(0),
        fields: |s| vec![&mut s.pool],
        ..PLAIN
    },
    Setting {
        name: "max_acc_drop",
        unit: "POINTS",
        about: "Percentage points of accuracy on held-out images that the layer may cost; where it costs more it is mixed with \
                the identity, and where that is not enough no file is written",
        unset: Some(("none", "no limit")),
        fields: |s| vec![&mut s.max_acc_drop],
        ..PLAIN
    },
    Setting {
        name: "precision",
        unit: "KIND",
        about: "Precision of the frozen network's convolutions in the training",
        form: Form::Words(crate::kernels::Precision::NAMES),
        unset: Some(("auto", "tf32 on a GPU, bf16 on a processor with AVX-512 BF16, else f32")),
        fields: |s| vec![&mut s.precision],
        ..PLAIN
    },
];

impl Start {
    const WORDS: &[&str] = &["whitening", "identity", "principal"];
}

impl Field for Start {
    fn value(&self) -> Value {
        Value::Word(match self {
            Self::Whitening { .. } => "whitening",
            Self::Identity => "identity",
            Self::Principal { .. } => "principal",
        })
    }

    fn put(&mut self, value: Value) {
        if value == self.value() {
            return;
        }
        match value {
            Value::Word("whitening") => *self = Self::Whitening { warmup: 0, warm_lr: Self::WARM_LR },
            Value::Word("identity") => *self = Self::Identity,
            Value::Word("principal") => *self = Self::Principal { rank: None },
            _ => {}
        }
    }
}

impl OptimizerKind {
    const WORDS: &[&str] = &["sgd", "adam"];
}

impl Field for OptimizerKind {
    fn value(&self) -> Value {
        Value::Word(match self {
            Self::Sgd { .. } => "sgd",
            Self::Adam => "adam",
        })
    }

    fn put(&mut self, value: Value) {
        if value == self.value() {
            return;
        }
        match value {
            Value::Word("sgd") => *self = Self::SGD,
            Value::Word("adam") => *self = Self::Adam,
            _ => {}
        }
    }
}

impl AdversaryKind {
    const WORDS: &[&str] = &["pixel", "latent", "none"];
}

impl Field for AdversaryKind {
    fn value(&self) -> Value {
        Value::Word(match self {
            Self::None => "none",
            Self::Pixel { .. } => "pixel",
            Self::Latent { .. } => "latent",
        })
    }

    /// Keeps the number of steps.
    fn put(&mut self, value: Value) {
        if value == self.value() {
            return;
        }
        match value {
            Value::Word("none") => *self = Self::None,
            Value::Word("pixel") => *self = Self::pixel(self.steps()),
            Value::Word("latent") => *self = Self::Latent { steps: self.steps(), rho: Self::LATENT_RHO },
            _ => {}
        }
    }
}

impl Field for Option<PixelPool> {
    fn value(&self) -> Value {
        Value::Count(self.map_or(0, |pool| pool.images as u64))
    }

    fn put(&mut self, value: Value) {
        let Value::Count(images) = value else { return };
        let step = self.map_or(AdversaryKind::PIXEL_STEP, |pool| pool.step);
        *self = (images > 0).then_some(PixelPool { images: images as usize, step });
    }
}
