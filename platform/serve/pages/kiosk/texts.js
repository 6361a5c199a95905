// What the page says, in each of its languages.

const LANGUAGES = {
  en: {
    name: "English",
    direction: "ltr",
    title: "Rill",
    welcome: "Ask me something. I think and answer right here, on this device.",
    prompts: ["Why is the sky blue?", "Tell me a short story about a fox", "Explain photosynthesis simply",
      "Give me three ideas for a rainy day"],
    language: "Language",
    suggestions: "Suggested questions",
    skip: "To the question",
    question: "Your question",
    send: "Send",
    stop: "Stop the answer",
    over: "Start over",
    newest: "Newest",
    small: "Answers come from a language model and can be wrong.",
    asked: "You asked",
    answered: "Answer",
    waiting: "One moment …",
    thinking: "Thinking …",
    thoughts: "How the answer came about",
    writing: "The answer is being written.",
    code: "Code",
    table: "Table",
    again: "Try again",
    stopped: "Stopped.",
    cut: "The answer was cut off at its greatest length.",
    lost: "The connection broke; the answer is not complete.",
    failed: "This could not be answered.",
    busy: "Many people are asking just now. Please try again in a moment.",
    long: "This conversation has become too long. Please start over.",
    refused: "This page may not ask from here.",
    down: "The assistant cannot be reached. It will be back as soon as possible.",
    starting: "The assistant is getting ready …",
    back: "The assistant is back.",
    wiped: "The conversation was cleared.",
    stillThere: "Are you still there?",
    cleared: "Otherwise this conversation will be cleared, so that nobody else reads it.",
    stay: "Yes, continue",
  },
  de: {
    name: "Deutsch",
    direction: "ltr",
    title: "Rill",
    welcome: "Fragen Sie mich etwas. Ich denke und antworte gleich hier, auf diesem Gerät.",
    prompts: ["Warum ist der Himmel blau?", "Erzähl mir eine kurze Geschichte von einem Fuchs",
      "Erklär mir einfach, was Photosynthese ist", "Gib mir drei Ideen für einen Regentag"],
    language: "Sprache",
    suggestions: "Vorgeschlagene Fragen",
    skip: "Zur Frage",
    question: "Ihre Frage",
    send: "Senden",
    stop: "Antwort anhalten",
    over: "Neu beginnen",
    newest: "Zum Neuesten",
    small: "Antworten kommen von einem Sprachmodell und können falsch sein.",
    asked: "Sie fragten",
    answered: "Antwort",
    waiting: "Einen Moment …",
    thinking: "Denkt nach …",
    thoughts: "Wie die Antwort entstand",
    writing: "Die Antwort wird geschrieben.",
    code: "Code",
    table: "Tabelle",
    again: "Noch einmal versuchen",
    stopped: "Angehalten.",
    cut: "Die Antwort wurde bei ihrer größten Länge abgeschnitten.",
    lost: "Die Verbindung brach ab; die Antwort ist nicht vollständig.",
    failed: "Das konnte nicht beantwortet werden.",
    busy: "Gerade fragen viele. Bitte versuchen Sie es gleich noch einmal.",
    long: "Dieses Gespräch ist zu lang geworden. Bitte beginnen Sie neu.",
    refused: "Von hier darf diese Seite nicht fragen.",
    down: "Der Assistent ist nicht erreichbar. Er kommt so bald wie möglich zurück.",
    starting: "Der Assistent macht sich bereit …",
    back: "Der Assistent ist wieder da.",
    wiped: "Das Gespräch wurde gelöscht.",
    stillThere: "Sind Sie noch da?",
    cleared: "Sonst wird dieses Gespräch gelöscht, damit es niemand anders liest.",
    stay: "Ja, weiter",
  },
  es: {
    name: "Español",
    direction: "ltr",
    title: "Rill",
    welcome: "Pregúnteme algo. Pienso y respondo aquí mismo, en este dispositivo.",
    prompts: ["¿Por qué el cielo es azul?", "Cuéntame un cuento corto sobre un zorro",
      "Explica la fotosíntesis de forma sencilla", "Dame tres ideas para un día de lluvia"],
    language: "Idioma",
    suggestions: "Preguntas sugeridas",
    skip: "Ir a la pregunta",
    question: "Su pregunta",
    send: "Enviar",
    stop: "Detener la respuesta",
    over: "Empezar de nuevo",
    newest: "Lo más nuevo",
    small: "Las respuestas vienen de un modelo de lenguaje y pueden ser erróneas.",
    asked: "Usted preguntó",
    answered: "Respuesta",
    waiting: "Un momento …",
    thinking: "Pensando …",
    thoughts: "Cómo surgió la respuesta",
    writing: "Se está escribiendo la respuesta.",
    code: "Código",
    table: "Tabla",
    again: "Intentar de nuevo",
    stopped: "Detenida.",
    cut: "La respuesta se cortó al llegar a su longitud máxima.",
    lost: "Se perdió la conexión; la respuesta no está completa.",
    failed: "No se pudo responder a esto.",
    busy: "Muchas personas están preguntando ahora. Inténtelo de nuevo en un momento.",
    long: "Esta conversación es demasiado larga. Empiece de nuevo, por favor.",
    refused: "Esta página no puede preguntar desde aquí.",
    down: "No se puede contactar con el asistente. Volverá lo antes posible.",
    starting: "El asistente se está preparando …",
    back: "El asistente ha vuelto.",
    wiped: "La conversación se ha borrado.",
    stillThere: "¿Sigue ahí?",
    cleared: "Si no, esta conversación se borrará para que nadie más la lea.",
    stay: "Sí, continuar",
  },
  ar: {
    name: "العربية",
    direction: "rtl",
    title: "Rill",
    welcome: "اسألني ما تشاء. أفكر وأجيب هنا، على هذا الجهاز.",
    prompts: ["لماذا السماء زرقاء؟", "احكِ لي قصة قصيرة عن ثعلب", "اشرح لي التمثيل الضوئي ببساطة",
      "أعطني ثلاث أفكار ليوم ممطر"],
    language: "اللغة",
    suggestions: "أسئلة مقترحة",
    skip: "إلى السؤال",
    question: "سؤالك",
    send: "إرسال",
    stop: "إيقاف الإجابة",
    over: "البدء من جديد",
    newest: "الأحدث",
    small: "الإجابات من نموذج لغوي وقد تكون خاطئة.",
    asked: "سؤالك",
    answered: "الإجابة",
    waiting: "لحظة من فضلك …",
    thinking: "يفكر …",
    thoughts: "كيف نشأت الإجابة",
    writing: "تُكتب الإجابة الآن.",
    code: "شيفرة",
    table: "جدول",
    again: "المحاولة مرة أخرى",
    stopped: "تم الإيقاف.",
    cut: "قُطعت الإجابة عند أقصى طول لها.",
    lost: "انقطع الاتصال؛ الإجابة غير كاملة.",
    failed: "تعذرت الإجابة عن هذا.",
    busy: "يسأل كثيرون الآن. يرجى المحاولة بعد لحظات.",
    long: "أصبحت هذه المحادثة طويلة جدًا. يرجى البدء من جديد.",
    refused: "لا يُسمح لهذه الصفحة بالسؤال من هنا.",
    down: "تعذر الوصول إلى المساعد. سيعود في أقرب وقت.",
    starting: "المساعد يستعد …",
    back: "عاد المساعد.",
    wiped: "مُسحت المحادثة.",
    stillThere: "هل ما زلت هنا؟",
    cleared: "وإلا فستُمسح هذه المحادثة كي لا يقرأها غيرك.",
    stay: "نعم، متابعة",
  },
};

/** Texts in the language of a visitor, with the words of the kiosk's owner. */
export class Texts {
  #settings;
  /** Languages to choose from. */
  choices;
  /** The one that the page begins with. */
  first;

  constructor(settings) {
    this.#settings = settings;
    const own = Object.keys(settings.languages);
    const said = settings.language ? [settings.language, ...own] : own;
    // Whoever writes for some languages has those; who writes for none in particular has all.
    const is = (language) => said.length === 0 || said.includes(language);
    this.choices = Object.keys(LANGUAGES).filter(is);
    const wanted = navigator.languages.map((tag) => tag.toLowerCase().split("-")[0]);
    this.first = settings.language ?? wanted.find(is) ?? this.choices[0];
    if (!this.choices.includes(this.first)) this.first = this.choices[0];
    this.use(this.first);
  }

  /** Speaks a language from now on. */
  use(language) {
    const given = (words) => Object.entries(words ?? {}).filter(([, text]) => text !== null);
    const { words, languages } = this.#settings;
    const own = Object.fromEntries([...given(words), ...given(languages[language])]);
    Object.assign(this, LANGUAGES[language], own, { current: language });
    document.documentElement.lang = language;
    document.documentElement.dir = this.direction;
    document.title = this.title;
    for (const place of document.querySelectorAll("[data-text]")) place.textContent = this[place.dataset.text];
    for (const place of document.querySelectorAll("[data-title]")) place.textContent = this.title;
    for (const place of document.querySelectorAll("[data-label]")) {
      place.setAttribute("aria-label", this[place.dataset.label]);
    }
    for (const place of document.querySelectorAll("[data-placeholder]")) {
      place.placeholder = this[place.dataset.placeholder];
    }
  }

  /** What a language calls itself. */
  static nameOf(language) {
    return LANGUAGES[language].name;
  }
}
