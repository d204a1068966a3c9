"""The plain English words and phrases that the curriculum of the embedded model is written in."""
# ruff: noqa: SIM905 (word lists are easier to read as running text)

CATEGORIES: dict[str, list[str]] = {
    "animal": "cat dog horse goat sheep fox owl otter rabbit duck goose mouse badger heron pony".split(),
    "fruit": "apple pear plum cherry grape lemon melon peach fig mango orange banana lime berry".split(),
    "tool": "hammer saw drill spade rake wrench ladder chisel file pliers shovel broom axe brush".split(),
    "drink": "tea coffee milk juice water cider cocoa soup broth lemonade soda syrup".split(),
    "weather": "rain snow fog hail wind thunder frost sunshine drizzle storm mist sleet".split(),
    "music": "piano violin drum flute guitar harp trumpet organ cello banjo choir song".split(),
    "clothes": "coat hat scarf shirt glove sock boot jacket dress belt sweater cap apron".split(),
    "plant": "rose fern oak moss tulip ivy pine daisy reed clover willow thistle lily".split(),
    "vehicle": "bus train tram boat bicycle lorry van ferry sledge cart scooter canoe".split(),
    "furniture": "chair table sofa shelf lamp desk bed stool bench cupboard wardrobe drawer".split(),
    "sport": "tennis rowing football hockey chess running skating swimming archery cricket golf".split(),
    "job": "baker nurse farmer tailor pilot teacher painter carpenter sailor miller judge clerk".split(),
    "place": "museum market harbour library station chapel bridge castle school theatre garden mill".split(),
    "food": "bread cheese rice pasta butter honey cake pie egg bean potato onion carrot".split(),
    "metal": "iron copper silver gold tin zinc brass steel lead bronze nickel".split(),
    "body": "arm knee elbow shoulder ankle wrist thumb neck back foot hand tooth".split(),
}
COLOURS = "red blue green yellow white black brown grey pink purple violet golden pale dark".split()
ADJECTIVES = (
    "old new small large quiet loud heavy light warm cold bright dull clean dirty empty full round flat "
    "narrow wide gentle rough early late cheap dear soft hard strange plain famous broken clever happy "
    "sad angry calm tired busy slow quick careful honest lazy polite proud simple sharp smooth steady "
    "strong sudden tall tiny wet dry young"
).split()
NOUNS = (
    "box letter parcel window door key clock mirror road river hill field house kitchen room street "
    "village town city island forest lake beach tower wall roof floor corner picture book page story "
    "word question answer number name list price money coin ticket card bag bottle cup plate spoon knife "
    "basket rope wheel engine machine phone screen cable battery button switch light camera radio paper "
    "pencil stamp parade meeting morning evening night week month year day hour minute friend neighbour "
    "brother sister mother father child visitor guest owner customer worker driver doctor captain team "
    "group family company shop office factory hospital hotel account message email code problem mistake "
    "reason result change repair visit trip journey holiday party game match plan job lesson class "
    "device product item colour size shape sound smell taste noise smoke fire ice stone wood glass cloth "
    "leather website app page link form line help support service store delivery van gift sale payment "
    "bill charge bank address password sign label report note file record"
).split()
PAST_VERBS = (
    "found lost bought sold made broke opened closed carried cleaned painted moved saw heard took "
    "brought left kept wanted needed liked loved hated washed fixed counted cut drew built sent received "
    "ordered paid returned changed checked tried used watched followed helped asked called told gave "
    "showed put pulled pushed threw caught hid forgot remembered cooked ate drank wrote read copied "
    "started stopped finished waited worked"
).split()
PLACES_PHRASES = (
    "near the bridge;by the door;under the table;behind the house;in the garden;on the hill;at the "
    "station;next to the lake;in the old town;across the street;in the kitchen;on the shelf;at the "
    "market;in the office;at home;at the shop;over the wall;in the box;along the river;inside the hall"
).split(";")
TIMES = (
    "yesterday;this morning;last week;on Monday;on Tuesday;on Friday;in the evening;at noon;two days "
    "ago;last month;on Sunday;before lunch;after the rain;just now;today;since last night;all "
    "day;again;for the third time;at once"
).split(";")
ASIDES = (
    "Thank you very much.;I hope this is all right.;Please have a look.;Can you help me?;Hello "
    "there.;Good morning.;It was a long day.;I do not know why.;We are still waiting.;Nobody told "
    "us.;That is all.;Best wishes.;Sorry to ask.;It does not matter much.;I tried it twice.;We would "
    "like to know more.;Please write back soon.;Hi.;This has happened before.;I am not sure what to "
    "do.;There is no hurry.;Tell me what you think.;My friend saw it too.;It is the same as before.;What "
    "should I do now?;I will be away until then.;You can call me.;It worked fine before.;I cannot find "
    "it.;It stopped working.;Everyone was surprised."
).split(";")
KEYS = (
    "name code kind place colour id type item value thing tag class group who what where owner city "
    "number ref mark label key part title note size word count state level user source target side unit "
    "grade role area date point result status entry field line rank shelf room zone brand model seat "
    "pass lot page"
).split()
COMMON = (
    "about above after again against ago all almost alone along already also always am an and another "
    "any anyone anything are arrive arrived around ask asleep at away because been before begin began "
    "being best better between big both but buy by came can cannot case certain check come could date "
    "damaged delay did different do does done double down during each else end enough even ever every "
    "everything except far fast few find first for forget four free from further get give given go goes "
    "going gone good got had half happen happened has have having he hear hello her here him his hope "
    "how hurry if in inside instead into is it its just keep kept know last least leave less let like "
    "little long look looking lose lot made make many may me mean might mine missing money more most "
    "much must my myself need never next nice no nobody none nor not nothing now of off often on once "
    "one only open or other our out over own part past pay perhaps please possible quite rather read "
    "ready really receive right same say second see seem seems send sent set several shall she should "
    "show since six so some somebody someone something soon sorry start still stop such sure take talk "
    "tell ten than thank thanks that the their them then there these they think this those three through "
    "till time to today together told tomorrow tonight too toward try turn twice two under understand "
    "until up upon us use used usual very wait waiting want wants was way we week went were what when "
    "where whether which while who whole whose why will wish with within without wonder word work "
    "working works worse would write wrong yes yet you your yours"
).split()
# statement, question, kind of value
FACTS: list[tuple[str, str, str]] = [
    ("{n} lives in {v}.", "Where does {n} live?", "name"),
    ("{n} works for {v}.", "Who does {n} work for?", "name"),
    ("{n} was born in {v}.", "Where was {n} born?", "name"),
    ("The capital of {n} is {v}.", "What is the capital of {n}?", "name"),
    ("{n} is married to {v}.", "Who is {n} married to?", "name"),
    ("The owner of {n} is {v}.", "Who is the owner of {n}?", "name"),
    ("{n} was founded by {v}.", "Who founded {n}?", "name"),
    ("The code of {n} is {v}.", "What is the code of {n}?", "number"),
    ("{n} costs {v} coins.", "How many coins does {n} cost?", "number"),
    ("The phone number of {n} is {v}.", "What is the phone number of {n}?", "number"),
    ("{n} has room {v}.", "Which room does {n} have?", "number"),
    ("{n} was opened in {v}.", "When was {n} opened?", "number"),
    ("The colour of {n} is {v}.", "What is the colour of {n}?", "colour"),
    ("The door of {n} is {v}.", "What colour is the door of {n}?", "colour"),
    ("{n} likes {v}.", "What does {n} like?", "thing"),
    ("{n} keeps a {v}.", "What does {n} keep?", "thing"),
    ("{n} is afraid of the {v}.", "What is {n} afraid of?", "thing"),
    ("{n} is a {v}.", "What is {n}?", "job"),
    ("{n} left for {v} {t}.", "Where did {n} go?", "name"),
    ("{n} sent the {w} to {v}.", "Who did {n} send the {w} to?", "name"),
    ("In {n} people speak {v}.", "What do people speak in {n}?", "name"),
    ("The old name of {n} was {v}.", "What was the old name of {n}?", "name"),
]
# how a message can carry a value {v}, beside some noun {w}
CARRIERS: dict[str, list[str]] = {
    "number": (
        "number {v};no. {v};code {v};it says {v};parcel {v};ticket {v};the number is {v};#{v};ref "
        "{v};card {v};room {v};it is marked {v};my {w} {v};the {w} with number {v};{w} {v};{w} number "
        "{v};({v});regarding {v};{w} #{v}"
    ).split(";"),
    "name": (
        "from {v};I am {v};for {v};{v} here;{v} wrote;signed {v};this is {v};ask {v};{v} has it;near "
        "{v};we met {v};my name is {v};the {w} of {v};{v} sent me;I live in {v};it went to {v};it is a "
        "{v};my {v};the {v}"
    ).split(";"),
    "word": (
        "a {v};the {v};one {v};my {v};no {v};some {v};with a {v};it is a {v};like a {v};the {w} and the {v}"
    ).split(";"),
    "cue": (
        "it is {v};it was {v};so {v};very {v};rather {v};they are {v};I feel {v};all {v};the {w} is {v};a {v} {w}"
    ).split(";"),
}
