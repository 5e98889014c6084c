"""How the Factbook's relations are phrased, in facts and in questions.

Placeholders: {s} subject, {ps} its possessive, {n} the relation's noun, {be} its verb, {v} value. Of each list of
wordings the last quarter is kept for testing (`wording.choose`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_FACTS = ("The {n} of {s} {be} {v}.", "{ps} {n} {be} {v}.")
_QUESTIONS = (
    "What {be} the {n} of {s}?",
    "What {be} {ps} {n}?",
    "{n} of {s}?",
    "I'd like to know the {n} of {s}.",
    "Tell me {ps} {n}.",
    "{s}: {n}?",
    "Could you look up the {n} of {s} for me?",
    "Do you happen to know what {ps} {n} {be}?",
)
_UNPHRASED_FACTS = ("{s} – {n}: {v}.", "For {s}, the entry under {n} reads: {v}.")
_UNPHRASED_QUESTIONS = (
    "What is listed for {s} under {n}?",
    "{s}, {n}?",
    "What do you have on {s} for {n}?",
    "Give me the figure or entry for {n} in {s}.",
    "{n} – {s}?",
    "What does the record of {s} say under {n}?",
)
_PLURAL = re.compile(r"\b(?:rates|expenditures|exports|imports|reserves of .*|remittances)$")


@dataclass(frozen=True, slots=True)
class Phrasing:
    noun: str
    facts: tuple[str, ...] = _FACTS
    questions: tuple[str, ...] = _QUESTIONS
    be: str = "is"
    it: str = "It is"


def phrasing_of(relation: str) -> Phrasing:
    """The hand-written phrasing, or one made of the relation's label."""
    return _PHRASINGS.get(relation) or _unphrased(relation)


def is_curated(relation: str) -> bool:
    return relation in _PHRASINGS


@cache
def _unphrased(relation: str) -> Phrasing:
    """ "A - b - c" becomes "a (b, c)"; "A - A 2023" becomes "2023 a"."""
    first, *rest = (part.strip() for part in relation.split(" - "))
    first = re.sub(r"\b[A-Z](?=[a-z])", lambda letter: letter.group().lower(), first, count=1)
    if rest and (year := re.search(r"\b\d{4}$", rest[-1])):
        noun = f"{year.group()} {first}"
        return Phrasing(noun, be="are", it="They are") if _PLURAL.search(noun) else Phrasing(noun)
    if rest and rest[-1].casefold().startswith(first.casefold()):
        first, rest = first[:1] + rest[-1][1:], []
    noun = f"{first} ({', '.join(rest)})" if rest else first
    return Phrasing(noun, _UNPHRASED_FACTS, _UNPHRASED_QUESTIONS)


def _asked(noun: str, *questions: str, facts: tuple[str, ...] = (), be: str = "is", it: str = "It is") -> Phrasing:
    """Own questions between the general ones, so that some of each are kept for testing."""
    own = len(questions) // 2
    return Phrasing(
        noun,
        (*facts, *_FACTS) if facts else _FACTS,
        (*questions[: len(questions) - own], *_QUESTIONS[:5], *questions[len(questions) - own :], *_QUESTIONS[5:]),
        be,
        it,
    )


def _only(noun: str, facts: tuple[str, ...], *questions: str, it: str = "It is") -> Phrasing:
    """For what the general wordings do not fit."""
    return Phrasing(noun, facts, questions, it=it)


_PHRASINGS: dict[str, Phrasing] = {
    "Capital - name": _asked(
        "capital",
        "Which city is the capital of {s}?",
        "capital city of {s}",
        "From which city is {s} governed?",
        "Which town is the seat of government in {s}?",
        facts=("{v} is the capital of {s}.", "The capital city of {s} is {v}."),
    ),
    "Population - total": _asked(
        "population",
        "How many people live in {s}?",
        "How big is the population of {s}?",
        "how many inhabitants does {s} have",
        "How populous is {s}?",
        facts=("{s} has a population of {v}.", "{v} people live in {s}."),
    ),
    "Population - male": _asked("male population", "How many men and boys live in {s}?", "How many males are in {s}?"),
    "Population - female": _asked(
        "female population", "How many women and girls live in {s}?", "How many females are in {s}?"
    ),
    "Area - total": _asked(
        "total area",
        "How large is {s}?",
        "How big is {s} in square kilometers?",
        "What area does {s} cover?",
        "size of {s}?",
        facts=("{s} covers a total area of {v}.",),
    ),
    "Area - land": _asked("land area", "How much land does {s} have?", "How much of {s} is dry land?"),
    "Area - water": _asked(
        "water area", "How much of {s} is covered by water?", "How many square kilometers of {s} are water?"
    ),
    "Coastline": _asked(
        "coastline",
        "How long is the coastline of {s}?",
        "How many kilometers of coast does {s} have?",
        "length of {ps} coast?",
        "How much shore does {s} have?",
        facts=("{ps} coastline is {v} long.", "{s} has {v} of coastline."),
    ),
    "Land boundaries - total": _asked(
        "total land border length",
        "How long are the land borders of {s}?",
        "How many kilometers of land boundary does {s} have?",
        facts=("The land boundaries of {s} are {v} long in total.",),
    ),
    "Exchange rates - Currency": _only(
        "currency",
        ("People in {s} pay in {v}.", "The money used in {s}: {v}.", "In {s}, prices are in {v}."),
        "What is the currency of {s}?",
        "What money do people use in {s}?",
        "Which currency is used in {s}?",
        "currency in {s}?",
        "I'm travelling to {s}. What do I pay with?",
        "What would a shop in {s} want to be paid in?",
        "Tell me what kind of money {s} has.",
    ),
    "Internet country code": _asked(
        "internet country code",
        "Which top-level domain belongs to {s}?",
        "What do web addresses in {s} end in?",
        "country domain of {s}",
        "Which ending do {ps} websites have?",
        facts=("Web addresses in {s} end in {v}",),
    ),
    "Life expectancy at birth - total population": _asked(
        "life expectancy",
        "How long do people in {s} live on average?",
        "What age can a newborn in {s} expect to reach?",
        "How old do people get in {s}?",
        "How many years does the average person in {s} live?",
        facts=("Life expectancy at birth in {s} is {v}.", "People in {s} live for {v} on average."),
    ),
    "Life expectancy at birth - male": _asked(
        "life expectancy of men", "How long do men in {s} live?", "How old do men get in {s}?"
    ),
    "Life expectancy at birth - female": _asked(
        "life expectancy of women", "How long do women in {s} live?", "How old do women get in {s}?"
    ),
    "Median age - total": _asked(
        "median age",
        "How old is the typical person in {s}?",
        "What is the median age of people in {s}?",
        facts=("The median age in {s} is {v}.",),
    ),
    "Birth rate": _asked(
        "birth rate",
        "How many births per 1,000 people are there in {s}?",
        "How many children are born in {s} per 1,000 people?",
    ),
    "Death rate": _asked(
        "death rate",
        "How many deaths per 1,000 people are there in {s}?",
        "How many people per 1,000 die in {s} each year?",
    ),
    "Infant mortality rate - total": _asked(
        "infant mortality rate",
        "How many infants die in {s} per 1,000 live births?",
        "How high is infant mortality in {s}?",
    ),
    "Maternal mortality ratio": _asked(
        "maternal mortality ratio",
        "How many mothers die in {s} per 100,000 live births?",
        "How high is maternal mortality in {s}?",
    ),
    "Total fertility rate": _asked(
        "total fertility rate",
        "How many children does a woman in {s} have on average?",
        "How many kids do women have in {s}?",
    ),
    "Population growth rate": _asked(
        "population growth rate",
        "How fast is the population of {s} growing?",
        "By how much does {ps} population grow a year?",
    ),
    "Net migration rate": _asked(
        "net migration rate",
        "How many people migrate to or from {s} per 1,000 people?",
        "How high is net migration in {s}?",
    ),
    "GDP (official exchange rate)": _asked(
        "GDP",
        "How big is {ps} economy?",
        "What is the gross domestic product of {s}?",
        "How much does the economy of {s} produce in a year?",
        "What is the yearly output of {s} worth?",
        facts=("The gross domestic product (GDP) of {s} is {v}.",),
    ),
    "Real GDP per capita - Real GDP per capita 2024": _asked(
        "2024 GDP per capita",
        "What was the GDP per person in {s} in 2024?",
        "How much GDP did {s} have per head in 2024?",
    ),
    "Elevation - highest point": _asked(
        "highest point",
        "Which is the highest mountain or place in {s}?",
        "Where is {s} highest?",
        "highest peak in {s}?",
        "What's at the very top of {s}?",
        facts=("The highest point in {s} is {v}.",),
    ),
    "Elevation - lowest point": _asked(
        "lowest point",
        "Where is {s} lowest?",
        "Which place in {s} lies lowest?",
        facts=("The lowest point in {s} is {v}.",),
    ),
    "Elevation - mean elevation": _asked(
        "mean elevation", "How high does {s} lie on average?", "How high up is {s} on average?"
    ),
    "Government type": _asked(
        "type of government",
        "What kind of government does {s} have?",
        "How is {s} governed?",
        "What sort of state is {s}?",
        "What is the political system of {s} called?",
        facts=("{s} is governed as a {v}.", "The form of government in {s} is {v}."),
    ),
    "National color(s)": _asked(
        "national colors",
        "Which colors stand for {s}?",
        "What colours does {s} use as its own?",
        facts=("{ps} national colors are {v}.",),
        be="are",
        it="They are",
    ),
    "National symbol(s)": _asked(
        "national symbol", "What stands for {s} as its symbol?", "Which symbol represents {s}?"
    ),
    "National anthem(s) - title": _asked(
        "national anthem",
        "What is the national anthem of {s} called?",
        "Which song is {ps} anthem?",
        facts=("{ps} national anthem is called {v}.",),
    ),
    "National holiday": _asked(
        "national holiday",
        "What is the national holiday of {s} called?",
        "Which day does {s} celebrate as its national holiday?",
        "Which public holiday is {ps} national day?",
        facts=("{s} celebrates its national holiday, {v}.",),
    ),
    "Independence": _only(
        "date of independence",
        (
            "{s} became independent on {v}.",
            "The independence of {s} dates from {v}.",
            "{s} gained independence on {v}.",
        ),
        "When did {s} become independent?",
        "When did {s} gain independence?",
        "Since when has {s} been independent?",
        "date of {ps} independence?",
        "I'd like to know when {s} became independent.",
        "On what day did independence come to {s}?",
        "When did foreign rule end in {s}?",
        it="It was on",
    ),
    "Nationality - noun": _only(
        "nationality",
        ("Someone from {s} is called: {v}.", "A citizen of {s} is known as: {v}."),
        "What do you call a person from {s}?",
        "What are people from {s} called?",
        "How do you call a citizen of {s}?",
        "someone from {s} is a ...?",
        "What is the name for an inhabitant of {s}?",
        "If I come from {s}, what am I?",
    ),
    "Nationality - adjective": _only(
        "adjective",
        ("The adjective for things from {s} is {v}.", "Something from {s} is described as {v}."),
        "What is the adjective for {s}?",
        "Which adjective describes things from {s}?",
        "adjective for {s}?",
        "How do you describe something that comes from {s}, in one word?",
        "What's the adjective that goes with {s}?",
    ),
    "Executive branch - head of government": _asked(
        "head of government",
        "Who is the head of government of {s}?",
        "Who leads the government of {s}?",
        "Who runs the government in {s}?",
        "Who heads {ps} government at the moment?",
        facts=("{v} is the head of government of {s}.", "The government of {s} is headed by {v}."),
    ),
    "Executive branch - chief of state": _asked(
        "chief of state",
        "Who is the head of state of {s}?",
        "Who is {ps} chief of state?",
        "who's head of state in {s}",
        "Who represents {s} as its head of state?",
        facts=("{v} is the chief of state of {s}.",),
    ),
    "Unemployment rate - Unemployment rate 2024": _asked(
        "2024 unemployment rate",
        "How high was unemployment in {s} in 2024?",
        "What percentage of workers in {s} had no job in 2024?",
        facts=("In 2024, unemployment in {s} stood at {v}.",),
    ),
    "Inflation rate (consumer prices) - Inflation rate (consumer prices) 2024": _asked(
        "2024 inflation rate",
        "How high was inflation in {s} in 2024?",
        "How fast did prices rise in {s} in 2024?",
        facts=("Inflation in {s} was {v} in 2024.",),
    ),
    "Real GDP growth rate - Real GDP growth rate 2024": _asked(
        "2024 economic growth rate",
        "How fast did the economy of {s} grow in 2024?",
        "By how much did {ps} GDP grow in 2024?",
    ),
    "Airports": _asked(
        "number of airports",
        "How many airports does {s} have?",
        "How many airports are there in {s}?",
        facts=("There are {v} airports in {s}.",),
    ),
    "Heliports": _asked("number of heliports", "How many heliports does {s} have?", "How many heliports are in {s}?"),
    "Railways - total": _asked(
        "length of the railways",
        "How long is the railway network of {s}?",
        "How many kilometers of rail are there in {s}?",
        facts=("The railway network of {s} is {v} long.",),
    ),
    "Military expenditures - Military Expenditures 2024": _asked(
        "2024 military expenditure",
        "How much did {s} spend on its military in 2024?",
        "What share of GDP went to the armed forces of {s} in 2024?",
        facts=("{s} spent {v} on its military in 2024.",),
    ),
    "Suffrage": _asked(
        "voting age",
        "From what age can people vote in {s}?",
        "How old must you be to vote in {s}?",
        facts=("In {s}, people may vote from {v}.",),
    ),
    "Land use - forest": _asked(
        "forest share of the land",
        "How much of {s} is forest?",
        "What percentage of {s} is covered by forest?",
        "How wooded is {s}?",
        "What part of {ps} land is woods?",
        facts=("Forest covers {v} of {s}.",),
    ),
    "Land use - agricultural land": _asked(
        "agricultural share of the land",
        "How much of {s} is farmland?",
        "What percentage of {s} is used for agriculture?",
    ),
    "Land use - agricultural land: arable land": _asked(
        "arable share of the land", "How much of {s} is arable land?", "What percentage of {s} is arable?"
    ),
    "Irrigated land": _asked(
        "irrigated area", "How much land is irrigated in {s}?", "How many square kilometers does {s} irrigate?"
    ),
    "Urbanization - urban population": _asked(
        "urban population", "What share of people in {s} live in cities?", "How urban is {s}?"
    ),
    "Telephones - fixed lines - total subscriptions": _asked(
        "number of fixed telephone lines",
        "How many fixed telephone lines does {s} have?",
        "How many landlines are there in {s}?",
    ),
    "Telephones - mobile cellular - total subscriptions": _asked(
        "number of mobile phone subscriptions",
        "How many mobile phone subscriptions does {s} have?",
        "How many mobile phones are in use in {s}?",
    ),
    "Broadband - fixed subscriptions - total": _asked(
        "number of broadband subscriptions",
        "How many broadband connections does {s} have?",
        "How many homes and firms in {s} have broadband?",
    ),
    "Internet users - percent of population": _asked(
        "share of internet users",
        "What percentage of people in {s} use the internet?",
        "How many people are online in {s}, in percent?",
    ),
    "Electricity access - electrification - total population": _asked(
        "electrification rate", "What share of people in {s} have electricity?", "What percentage of {s} has power?"
    ),
    "Electricity - consumption": _asked(
        "electricity consumption", "How much electricity does {s} use?", "How much power does {s} consume?"
    ),
    "Labor force": _asked("labor force", "How many workers does {s} have?", "How large is the workforce of {s}?"),
    "Population below poverty line": _asked(
        "poverty rate", "What percentage of people in {s} live in poverty?", "How widespread is poverty in {s}?"
    ),
    "Obesity - adult prevalence rate": _asked(
        "adult obesity rate",
        "How common is obesity among adults in {s}?",
        "What percentage of adults in {s} are obese?",
    ),
    "Literacy - total population": _asked(
        "literacy rate", "What percentage of people in {s} can read and write?", "How common is literacy in {s}?"
    ),
    "Physician density": _asked(
        "physician density",
        "How many doctors per 1,000 people are there in {s}?",
        "How many physicians does {s} have per 1,000 people?",
    ),
    "Hospital bed density": _asked(
        "hospital bed density",
        "How many hospital beds per 1,000 people does {s} have?",
        "How many beds do {ps} hospitals have per 1,000 people?",
    ),
    "Merchant marine - total": _asked(
        "number of merchant ships", "How many merchant ships does {s} have?", "How big is the merchant fleet of {s}?"
    ),
    "Carbon dioxide emissions - total emissions": _asked(
        "carbon dioxide emissions",
        "How much CO2 does {s} emit?",
        "How much carbon dioxide comes from {s}?",
        be="are",
        it="They are",
    ),
    "Budget - revenues": _asked(
        "government revenue",
        "How much money does the government of {s} take in?",
        "What are the state revenues of {s}?",
    ),
    "Budget - expenditures": _asked(
        "government spending", "How much does the government of {s} spend?", "What are the state expenditures of {s}?"
    ),
    "Exports - Exports 2024": _asked(
        "2024 value of exports", "How much did {s} export in 2024?", "What were {ps} exports worth in 2024?"
    ),
    "Imports - Imports 2024": _asked(
        "2024 value of imports", "How much did {s} import in 2024?", "What were {ps} imports worth in 2024?"
    ),
    "Legislative branch - legislature name": _asked(
        "legislature",
        "What is the parliament of {s} called?",
        "What is the name of {ps} legislature?",
        facts=("The legislature of {s} is called: {v}.",),
    ),
    "Legislative branch - number of seats": _asked(
        "number of seats in parliament",
        "How many seats does the parliament of {s} have?",
        "How many members sit in {ps} legislature?",
    ),
    "Legislative branch - legislative structure": _asked(
        "structure of the legislature",
        "Is the parliament of {s} unicameral or bicameral?",
        "How many chambers does {ps} parliament have?",
    ),
    "Legal system": _asked(
        "legal system", "What kind of legal system does {s} have?", "Which sort of law is used in {s}?"
    ),
    "Climate": _asked("climate", "What is the climate like in {s}?", "How is the weather in {s} generally?"),
    "Natural resources": _asked(
        "natural resources",
        "Which natural resources does {s} have?",
        "What can be mined, caught or grown in {s}?",
        be="are",
        it="They are",
    ),
    "Natural hazards": _asked(
        "natural hazards",
        "Which natural hazards threaten {s}?",
        "What natural dangers are there in {s}?",
        be="are",
        it="They are",
    ),
    "Terrain": _asked("terrain", "What does the landscape of {s} look like?", "What is the land like in {s}?"),
    "Country name - conventional long form": _asked(
        "official name", "What is {s} called officially?", "What is the full name of {s}?"
    ),
    "Civil aircraft registration country code prefix": _asked(
        "aircraft registration prefix",
        "Which prefix do aircraft from {s} carry?",
        "What do {ps} aircraft registrations begin with?",
    ),
    "Diplomatic representation in the US - telephone": _asked(
        "telephone number of the embassy in the US",
        "How can I call the embassy of {s} in the US?",
        "What is the phone number of {ps} embassy in Washington?",
    ),
    "Diplomatic representation from the US - telephone": _asked(
        "telephone number of the US embassy",
        "How can I call the US embassy in {s}?",
        "What is the phone number of the US embassy in {s}?",
        facts=("The telephone number of the US embassy in {s} is {v}.",),
    ),
    "Capital - geographic coordinates": _asked(
        "geographic coordinates of the capital",
        "Where does the capital of {s} lie on the map?",
        "At which coordinates is {ps} capital?",
        be="are",
        it="They are",
    ),
    "Geographic coordinates": _asked(
        "geographic coordinates",
        "At which latitude and longitude is {s}?",
        "Where exactly does {s} lie?",
        be="are",
        it="They are",
    ),
    "Map references": _only(
        "map reference",
        ("{s} is found on maps of: {v}.", "Look for {s} on a map of this region: {v}."),
        "On which map is {s} found?",
        "Which region's map shows {s}?",
        "On a map of which region do I look for {s}?",
        "Where in the atlas is {s}?",
    ),
    "Capital - time difference": _asked("time zone", "Which time zone is {s} in?", "What is the UTC offset in {s}?"),
    "Citizenship - residency requirement for naturalization": _asked(
        "residency requirement for citizenship",
        "How long must you live in {s} to become a citizen?",
        "After how many years can one be naturalized in {s}?",
    ),
}
