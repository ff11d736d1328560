//! Values of settings as text, and the types that they convert to.

use std::fmt;

use crate::kernels::Precision;

/// A value of a setting, on a command line or in a report.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// A number.
    Number(f64),
    /// True or false.
    Flag(bool),
    /// One of a few words.
    Word(&'static str),
    /// Weights of the four losses.
    Weights([f64; 4]),
    /// No value, with the meaning given by [`super::Setting::unset`].
    Unset,
}

impl Value {
    /// As JSON; null for [`Value::Unset`].
    pub fn json(self) -> serde_json::Value {
        match self {
            Self::Count(v) => v.into(),
            Self::Number(v) => v.into(),
            Self::Flag(v) => v.into(),
            Self::Word(v) => v.into(),
            Self::Weights(v) => v.to_vec().into(),
            Self::Unset => serde_json::Value::Null,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(v) => v.fmt(f),
            Self::Number(v) => v.fmt(f),
            Self::Flag(v) => v.fmt(f),
            Self::Word(v) => f.write_str(v),
            Self::Weights(v) => f.write_str(&v.map(|l| l.to_string()).join(",")),
            Self::Unset => f.write_str("none"),
        }
    }
}

/// Syntax and range of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Form {
    /// A whole number of at least this.
    Count(u64),
    /// A finite number of at least 0.
    Number,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Four finite numbers of at least 0, with commas between them.
    Weights,
}

impl Form {
    /// Parses `text` without checking the range.
    ///
    /// # Errors
    /// A message with the expected syntax.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("`{text}` is not a number"));
        match self {
            Self::Count(_) => text.parse().map(Value::Count).map_err(|_| "a whole number is expected".into()),
            Self::Number => number(text).map(Value::Number),
            Self::Flag => text.parse().map(Value::Flag).map_err(|_| "true or false is expected".into()),
            Self::Words(words) => match words.iter().find(|word| **word == text) {
                Some(word) => Ok(Value::Word(word)),
                None => Err(format!("one of {} is expected", words.join(", "))),
            },
            Self::Weights => {
                let weights = text.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
                let four = <[f64; 4]>::try_from(weights);
                four.map(Value::Weights).map_err(|v| format!("{} values; four are expected", v.len()))
            }
        }
    }

    /// Checks the range of a value.
    ///
    /// # Errors
    /// A message with the range.
    pub fn check(self, value: Value) -> Result<(), String> {
        let finite = |v: f64| match v {
            v if !v.is_finite() => Err("must be finite".to_owned()),
            v if v < 0.0 => Err("must be at least 0".to_owned()),
            _ => Ok(()),
        };
        match (self, value) {
            (Self::Count(least), Value::Count(v)) if v < least => Err(format!("must be at least {least}")),
            (_, Value::Number(v)) => finite(v),
            (_, Value::Weights(weights)) => weights.into_iter().try_for_each(finite),
            _ => Ok(()),
        }
    }
}

/// A type whose values have names.
pub trait Named: Copy + PartialEq + Sized + 'static {
    /// All values with their names.
    const ALL: &'static [(Self, &'static str)];
    /// The names.
    const WORDS: &'static [&'static str];

    /// The name of this value.
    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(value, _)| *value == self).map_or("", |(_, word)| word)
    }

    /// The value with this name.
    fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, own)| *own == word).map(|(value, _)| *value)
    }
}

/// An enum with named variants, for the command line, reports and files.
macro_rules! named {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $($(#[$each])* $variant,)* }

        impl $crate::train::settings::Named for $name {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $word)),*];
            const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl $crate::train::settings::value::Field for $name {
            fn value(&self) -> $crate::train::settings::Value {
                $crate::train::settings::Value::Word($crate::train::settings::Named::word(*self))
            }

            fn put(&mut self, value: $crate::train::settings::Value) {
                let $crate::train::settings::Value::Word(word) = value else { return };
                *self = $crate::train::settings::Named::of(word).unwrap_or(*self);
            }
        }

        #[cfg(feature = "cli")]
        impl clap::ValueEnum for $name {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$variant),*]
            }

            fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
                Some($crate::train::settings::Named::word(*self).into())
            }
        }
    };
}
pub(super) use named;

/// A field of the settings that converts to and from a [`Value`].
pub trait Field {
    /// Its value.
    fn value(&self) -> Value;
    /// Sets the value; ignores values of another kind.
    fn put(&mut self, value: Value);
}

/// [`Field`] for a type with its own kind of value.
macro_rules! plain {
    ($type:ty, $kind:ident) => {
        impl Field for $type {
            fn value(&self) -> Value {
                Value::$kind((*self) as _)
            }

            fn put(&mut self, value: Value) {
                if let Value::$kind(v) = value {
                    *self = v as $type;
                }
            }
        }
    };
}
plain!(usize, Count);
plain!(u64, Count);
plain!(f64, Number);
plain!(bool, Flag);
plain!([f64; 4], Weights);

impl<T: Field + Default> Field for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Unset, Field::value)
    }

    fn put(&mut self, value: Value) {
        if value == Value::Unset {
            *self = None;
        } else {
            self.get_or_insert_default().put(value);
        }
    }
}

impl Field for Precision {
    fn value(&self) -> Value {
        Value::Word(self.name())
    }

    fn put(&mut self, value: Value) {
        let Value::Word(word) = value else { return };
        *self = Self::ALL.into_iter().find(|p| p.name() == word).unwrap_or(*self);
    }
}
