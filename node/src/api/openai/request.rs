//! A request to embed, as JSON. Nothing of it is ignored but `user`, which names the app's own user.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::OpenAiError;
use crate::limits::{EMBED_TEXTS_MAX, EMBED_TOKENS_MAX};

/// What is to be embedded, and how it is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// The model, as the app names it.
    pub(super) model: String,
    /// One or more.
    pub(super) inputs: Inputs,
    /// Size that embeddings are cut to.
    pub(super) dimensions: Option<usize>,
    /// Whether embeddings are answered as base64 of little-endian floats.
    pub(super) is_base64: bool,
}

/// The texts of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    /// As text.
    Texts(Vec<String>),
    /// As the model's own tokens.
    Tokens(Vec<Vec<u32>>),
}

impl Inputs {
    /// Its size, as making tokens of it takes time.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.iter().map(String::len).sum(),
            Self::Tokens(lists) => lists.iter().map(Vec::len).sum(),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    model: String,
    #[serde(borrow)]
    input: &'a RawValue,
    #[serde(default)]
    encoding_format: Option<Encoding>,
    #[serde(default)]
    dimensions: Option<u32>,
    #[serde(default, rename = "user")]
    _user: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

impl Wish {
    /// Reads a body.
    ///
    /// # Errors
    /// It is not what OpenAI's API says, or has too much in it.
    pub(super) fn parse(body: &[u8]) -> Result<Self, OpenAiError> {
        let body: Body = serde_json::from_slice(body).map_err(|error| {
            let message = format!("the body is not a request to embed: {error}");
            OpenAiError::from(crate::api::v2::ApiError::malformed(message))
        })?;
        if body.dimensions == Some(0) {
            return Err(OpenAiError::malformed("dimensions", "`dimensions` is 0; leave it out"));
        }
        Ok(Self {
            model: body.model,
            inputs: inputs(body.input.get())?,
            dimensions: body.dimensions.and_then(|size| usize::try_from(size).ok()),
            is_base64: matches!(body.encoding_format, Some(Encoding::Base64)),
        })
    }
}

/// One text or several, as text or as tokens: which of the four, the first characters tell.
fn inputs(json: &str) -> Result<Inputs, OpenAiError> {
    let fault = |error: serde_json::Error| {
        let message = format!(
            "`input` is not a string, a list of strings, a list of token ids or a list of such \
             lists: {error}"
        );
        OpenAiError::malformed("input", message)
    };
    let inner = json.strip_prefix('[').map(str::trim_start);
    let inputs = match inner.and_then(|inner| inner.chars().next()) {
        None => Inputs::Texts(vec![serde_json::from_str(json).map_err(fault)?]),
        Some('[') => {
            let lists: AtMost<AtMost<u32, EMBED_TOKENS_MAX>, EMBED_TEXTS_MAX> =
                serde_json::from_str(json).map_err(fault)?;
            Inputs::Tokens(lists.0.into_iter().map(|list| list.0).collect())
        }
        Some('0'..='9' | '-') => {
            let list: AtMost<u32, EMBED_TOKENS_MAX> = serde_json::from_str(json).map_err(fault)?;
            Inputs::Tokens(vec![list.0])
        }
        Some(_) => {
            let texts: AtMost<String, EMBED_TEXTS_MAX> =
                serde_json::from_str(json).map_err(fault)?;
            Inputs::Texts(texts.0)
        }
    };
    match &inputs {
        Inputs::Texts(texts) if texts.is_empty() => {
            Err(OpenAiError::malformed("input", "`input` is empty; send one text or more"))
        }
        _ => Ok(inputs),
    }
}

/// A list that is given up as soon as it is too long.
struct AtMost<T, const N: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = AtMost<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == N {
                        return Err(A::Error::custom(format!("more than {N}, the limit")));
                    }
                    items.push(item);
                }
                Ok(AtMost(items))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(input: &str) -> Result<Wish, OpenAiError> {
        Wish::parse(format!(r#"{{"model":"m","input":{input}}}"#).as_bytes())
    }

    fn refused(outcome: Result<Wish, OpenAiError>, word: &str) {
        let body = outcome.expect_err("must be refused").body();
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(body["error"]["message"].as_str().unwrap().contains(word), "{body}");
    }

    #[test]
    fn all_four_forms_of_input_are_read() {
        let texts =
            |texts: &[&str]| Inputs::Texts(texts.iter().map(|text| (*text).into()).collect());
        assert_eq!(parse(r#""a\u00e4 ""#).unwrap().inputs, texts(&["aä "]));
        assert_eq!(parse(r#" [ "a", "b" ] "#).unwrap().inputs, texts(&["a", "b"]));
        assert_eq!(parse("[1, 2]").unwrap().inputs, Inputs::Tokens(vec![vec![1, 2]]));
        let lists = Inputs::Tokens(vec![vec![1], vec![2, 3]]);
        assert_eq!(parse("[ [1],[2,3]]").unwrap().inputs, lists);
    }

    #[test]
    fn what_is_no_input_is_refused_and_says_which_member_it_was() {
        for input in ["1", "null", "{}", "[null]", r#"["a",1]"#, r#"[1,"a"]"#, "[1.5]", "[-1]"] {
            refused(parse(input), "`input`");
            assert_eq!(parse(input).unwrap_err().body()["error"]["param"], "input");
        }
        refused(parse("[[1],2]"), "`input`");
        refused(parse("[4294967296]"), "u32");
        refused(parse("[]"), "empty");
        let many = vec!["\"a\""; EMBED_TEXTS_MAX + 1].join(",");
        refused(parse(&format!("[{many}]")), "2048");
        let full = vec!["\"a\""; EMBED_TEXTS_MAX].join(",");
        assert!(parse(&format!("[{full}]")).is_ok());
    }

    #[test]
    fn the_other_members_are_read_and_none_is_ignored() {
        let with = |members: &str| {
            Wish::parse(format!(r#"{{"model":"m","input":"a",{members}}}"#).as_bytes())
        };
        assert!(with(r#""encoding_format":"base64""#).unwrap().is_base64);
        assert!(!with(r#""encoding_format":"float","user":"u""#).unwrap().is_base64);
        assert_eq!(with(r#""dimensions":64"#).unwrap().dimensions, Some(64));
        refused(with(r#""dimensions":0"#), "dimensions");
        refused(with(r#""encoding_format":"int8""#), "int8");
        refused(with(r#""temperature":1"#), "temperature");
        refused(Wish::parse(b"{}"), "model");
        refused(Wish::parse(b""), "EOF");
    }

    proptest! {
        #[test]
        fn mutated_requests_never_panic_and_yield_only_what_is_within_the_limits(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let mut body = br#"{"model":"m","input":[[1,2],[3]],"dimensions":7}"#.to_vec();
            for (at, byte) in edits {
                let at = at.index(body.len());
                body[at] = b"[]{},:\"0123.-ae \\"[usize::from(byte) % 17];
            }
            if let Ok(wish) = Wish::parse(&body) {
                prop_assert!(wish.dimensions != Some(0));
                match wish.inputs {
                    Inputs::Texts(texts) => prop_assert!((1..=EMBED_TEXTS_MAX).contains(&texts.len())),
                    Inputs::Tokens(lists) => prop_assert!(lists.len() <= EMBED_TEXTS_MAX),
                }
            }
        }
    }
}
