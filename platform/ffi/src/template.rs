//! Conversations as the checkpoint's own chat template writes them.

use rill::chat::Role;
use rill::image::{ChatTemplate, Image, ImageError, PAGE_ALIGN, Section};
use rill::seams::Storage;
use rill::sequence::SequenceError;
use rill::session::Session;
use rill_linux::talk::{Message, follow, new_conversation};
use rill_template::{TemplateError, Words};

use crate::status::{Failure, Status};

/// The section of an image's template; empty where there is none.
pub fn section(image: &Image, storage: &mut dyn Storage<'static>) -> Result<Vec<u8>, Failure> {
    let len = image.header.span(Section::Template).len as usize;
    if len == 0 {
        return Ok(Vec::new());
    }
    // A length that was checked when the image was opened. Devices want their reads aligned.
    let padded = len.next_multiple_of(PAGE_ALIGN);
    let mut room = vec![0; padded + PAGE_ALIGN];
    let start = room.as_ptr().align_offset(PAGE_ALIGN);
    let room = &mut room[start..start + padded];
    Ok(image.header.read(Section::Template, storage, room)?.to_vec())
}

/// What renders conversations with a model.
pub struct Template(Result<rill_template::Template, TemplateError>);

impl Template {
    /// Of a model, whose template came with it as `section`; `None` where there is none.
    pub fn of(session: &Session<'_>, section: Vec<u8>) -> Result<Option<Self>, Failure> {
        if section.is_empty() {
            return Ok(None);
        }
        let wrong = || Failure::from(ImageError::Length(Section::Template));
        let section = ChatTemplate::parse(&section).ok_or_else(wrong)?;
        let words = Words::of(session.tokenizer(), session.chat(), &section);
        // What cannot be compiled matters to who wants it alone.
        Ok(Some(Self(rill_template::Template::new(section.source, words))))
    }

    /// Makes the selected conversation what it writes of `messages`.
    pub fn follow<'t>(
        &self,
        session: &mut Session<'_>,
        messages: impl Iterator<Item = (Role, &'t str)>,
    ) -> Result<(), Failure> {
        let refused = |error: &TemplateError| Failure::system(Status::Template, error);
        let template = self.0.as_ref().map_err(refused)?;
        let message =
            |(role, text): (Role, &str)| Message { role, content: text.to_owned() }.as_json();
        let conversation = new_conversation(messages.map(message).collect());
        let rendered = template.render(&conversation).map_err(|error| refused(&error))?;
        let tokens = rendered.tokens(session.tokenizer()).map_err(SequenceError::Text)?;
        Ok(follow(session, &tokens)?)
    }
}
