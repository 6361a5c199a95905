//! The fields of a request, each read once, with errors that name them.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// An object of a request. A field that is `null` is not there.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// What stands before the names of its fields.
    path: String,
}

type Field<T> = Result<Option<T>, ApiError>;

impl Fields {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let wrong = |error| ApiError::bad(format!("the body is not JSON: {error}"));
        match serde_json::from_slice(body).map_err(wrong)? {
            Value::Object(map) => Ok(Self::of(map, String::new())),
            _ => Err(ApiError::bad("the body is no JSON object")),
        }
    }

    /// The fields of an object that stands at `path`.
    pub fn of(mut map: Map<String, Value>, path: String) -> Self {
        map.retain(|_, value| !value.is_null());
        Self { map, path }
    }

    /// The full name of a field.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// An error of a field.
    pub fn wrong(&self, name: &str, message: impl std::fmt::Display) -> ApiError {
        ApiError::field(self.name(name), message)
    }

    /// Any value.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    /// A value that is yet to be read.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// A text.
    pub fn text(&mut self, name: &str) -> Field<String> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a text")),
        }
    }

    /// True or false.
    pub fn flag(&mut self, name: &str) -> Field<bool> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Field<f32> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number as f32)),
            None => {
                let (least, most) = (range.start(), range.end());
                Err(self.wrong(name, format_args!("must be a number from {least} to {most}")))
            }
        }
    }

    /// A whole number within bounds; one that is written as `3.0` is one too.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Field<i64> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let float = || value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15);
        let whole = value.as_i64().or_else(|| float().map(|x| x as i64));
        match whole.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (least, most) = (range.start(), range.end());
                let bounds = match *most {
                    i64::MAX if value.as_f64().is_none_or(|x| x < *least as f64) => {
                        format!("at least {least}")
                    }
                    most => format!("from {least} to {most}"),
                };
                Err(self.wrong(name, format_args!("must be a whole number {bounds}")))
            }
        }
    }

    /// A list.
    pub fn list(&mut self, name: &str) -> Field<Vec<Value>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.wrong(name, "must be a list")),
        }
    }

    /// An object.
    pub fn object(&mut self, name: &str) -> Field<Self> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self::of(map, self.name(&format!("{name}."))))),
            Some(_) => Err(self.wrong(name, "must be an object")),
        }
    }

    /// A text or a list of texts.
    pub fn texts(&mut self, name: &str) -> Field<Vec<String>> {
        let text = |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        };
        let texts = match self.value(name) {
            None => return Ok(None),
            Some(Value::Array(list)) => list.into_iter().map(text).collect(),
            Some(value) => text(value).map(|text| vec![text]),
        };
        texts.map(Some).ok_or_else(|| self.wrong(name, "must be a text or a list of texts"))
    }

    /// Fields that change nothing here.
    pub fn ignore(&mut self, names: &[&str]) {
        names.iter().for_each(|name| drop(self.map.remove(*name)));
    }

    /// A field with the only value that is possible here; others are refused.
    pub fn only(&mut self, name: &str, possible: &[Value]) -> Result<(), ApiError> {
        match self.value(name) {
            Some(value) if !possible.contains(&value) => {
                Err(self.wrong(name, "this server does not do it").code("unsupported_value"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what nobody has read.
    pub fn end(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => {
                let error = self.wrong(name, "this server does not know it");
                Err(error.code("unknown_parameter"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).expect("it is an object")
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in [&b"[]"[..], b"3", b"", b"{\"a\":", b"\"\xff\"", b"{} {}"] {
            assert_eq!(Fields::parse(body).unwrap_err().status.as_u16(), 400, "{body:?}");
        }
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert_eq!(Fields::parse(&deep).unwrap_err().status.as_u16(), 400);
    }

    #[test]
    fn errors_name_the_field() {
        let mut outer =
            fields(r#"{"options": {"num_ctx": "many", "n": 3.5}, "stop": [1], "x": 1}"#);
        let mut options = outer.object("options").unwrap().unwrap();
        let param = |error: ApiError| error.param.unwrap();
        assert_eq!(param(options.integer("num_ctx", 1..=9).unwrap_err()), "options.num_ctx");
        assert_eq!(param(options.integer("n", 1..=9).unwrap_err()), "options.n");
        assert_eq!(param(outer.texts("stop").unwrap_err()), "stop");
        assert_eq!(param(outer.end().unwrap_err()), "x");
    }

    #[test]
    fn null_is_not_there_and_numbers_have_bounds() {
        let mut fields = fields(r#"{"a": null, "t": 2.5, "n": 3.0, "big": 1e300}"#);
        assert_eq!(fields.text("a"), Ok(None));
        assert!(fields.number("t", 0.0..=2.0).is_err());
        assert_eq!(fields.integer("n", 0..=3), Ok(Some(3)));
        assert!(fields.integer("big", 0..=i64::MAX).is_err());
        assert_eq!(fields.end(), Ok(()));
    }
}
