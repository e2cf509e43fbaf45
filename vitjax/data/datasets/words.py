"""Common English words for generated text, and which of them no training line may contain."""

import numpy as np

HELD_OUT_SHARE = 0.15
SPLIT_SEED = 7

WORDS = tuple(
    """
    able about above accept across act active add advice afraid after again age agree air alarm album alive allow
    almost alone along already also always amount anchor ancient angle animal answer apple apply april apron arch area
    argue arm army arrive arrow art ask asleep atlas atom attic august aunt author autumn avoid awake away axis baby
    back bacon badge bag bake balance ball banana band bank barn basic basket bath battle beach bean bear beauty
    because become bed bee before begin behind believe bell belong below belt bench beside best better between beyond
    bicycle big bird birth biscuit bite black blanket blossom blow blue board boat body boil bold bone book border
    borrow both bottle bottom bowl box brain branch brass brave bread break breath brick bridge bright bring broad
    broken broom brother brown brush bubble bucket budget build bundle burn bus busy butter button buy cabin cable cage
    cake call calm camel camera camp canal candle canvas captain car carbon card care carpet carry cart castle cat
    catch cause cave ceiling cell center century certain chain chair chalk chance change chapter charge chart cheap
    check cheese cherry chest chief child choice choose church cinema circle city claim class clay clean clear clerk
    clever climb clock close cloth cloud club coach coal coast coat coffee coin cold collar color column comb come
    common company compare compass complete concert cook cool copper copy coral corn corner correct cost cotton cough
    council count country couple courage course court cousin cover cow craft crane cream credit crew cross crowd crown
    cruise cry crystal cup cupboard curious current curtain curve custom cut daily dairy damage damp dance danger dark
    date daughter dawn day deal dear debate debt december decide deep deer degree delay deliver demand dentist depend
    desert design desk detail develop device dial diamond diary differ dig dinner direct dirty discover dish distance
    divide doctor dog dollar dolphin door double doubt dozen dragon draw dream dress drift drink drive drop drum dry
    duck dust duty each eager eagle ear early earn earth ease east easy eat echo edge edit effect effort egg eight
    either elbow elder electric elephant eleven else empty end enemy energy engine enjoy enough enter entire equal
    error escape even evening event ever every exact example except excite exist expect explain express extra eye
    fabric face fact factory fade fail fair faith fall false family famous far farm fashion fast father feather
    february feed feel fence ferry few field fifty fight figure fill film final find fine finger finish fire firm
    first fish five flag flame flat flavor float flood floor flour flow flower fly fog fold follow food foot force
    foreign forest forget fork form fortune forty forward found four fox frame free fresh friday friend frog front
    frost fruit fuel full funny future gain gallery game garage garden garlic gate gather general gentle giant gift
    ginger giraffe girl give glad glass globe glove glue goal goat gold good goose grain grand grape grass gravity
    gray great green greet grocery ground group grow guard guess guest guide guitar habit half hall hammer hand handle
    happen happy harbor hard harvest hat have hawk head health heart heat heavy height hello help hen herb here hero
    hide high hill hire history hobby hold hole holiday home honest honey hope horn horse hospital host hotel hour
    house huge human humor hundred hungry hunt hurry ice idea image important inch include income indeed index
    industry ink insect inside instead interest invite iron island item ivory jacket jam january jar jazz jelly jewel
    job join joke journey joy judge juice july jump june jungle jury just keep kettle key kick kind king kitchen kite
    knee knife knock know label labor ladder lake lamp land language large last late laugh laundry law lawn layer lazy
    lead leaf learn least leather leave left leg lemon lend length lens lesson letter level library lid life lift
    light like lily limit line lion lip liquid list listen little live lizard local lock logic long look loose lord
    lose loud love low loyal lucky lumber lunch machine magic magnet mail main major make mango manner many map maple
    marble march margin market marry mask mass master match matter maximum may maybe meadow meal mean measure meat
    medal meet melody melon member memory mend mention menu merry metal meter middle might mile milk mill million mind
    mineral minimum minor minute mirror miss mistake mix mobile model modern moment monday money monkey month moon
    more morning most mother motion motor mountain mouse mouth move much mud muscle museum mushroom music must mystery
    nail name narrow nation native nature near neat neck need needle neighbor neither nephew nerve nest network never
    new news next nice night nine noble nobody noise none noon normal north nose note nothing notice novel november
    now number nurse oak oasis object observe ocean october odd offer office often oil old olive once onion only open
    opera opinion orange orbit orchard order organ origin other ought outside oven over owl own owner oxygen oyster
    pack page paint pair palace palm panda paper parade parcel pardon parent park parrot part party pass past pasta
    path patient pattern pause pay peace peach peanut pear pearl pencil people pepper perfect perhaps period person
    phone photo phrase piano pick picnic picture piece pigeon pile pillow pilot pine pink pioneer pipe pirate pitch
    place plain planet plant plastic plate play please plenty plot plum pocket poem point polar police polish polite
    pond pool poor popular port possible post potato powder power praise prefer prepare present press pretty price
    pride prince print prize problem produce promise proof protect proud prove public pull pulse pump pumpkin pupil
    pure purple purpose push puzzle quality quarter queen question quick quiet quilt quite rabbit race radio rail rain
    raise range rapid rare rather raven razor reach read ready real reason receive recipe record red reduce reef
    region relate relax remain remember remove repair repeat reply report request rescue rest result return reward
    rhythm ribbon rice rich ride right ring ripe rise river road roast robin robot rock rocket roll roof room root
    rope rose rough round route row royal rubber rule run sad saddle safe sail salad salmon salt same sand saturday
    sauce save scale scarf scene school science score screen sea search season seat second secret seed seem sell send
    sense sentence separate september serious serve seven shade shadow shape share sharp sheep shelf shell shield
    shine ship shirt shoe shop shore short shoulder shout show shower side sight sign silence silk silver similar
    simple since sing sister six size skill skin skirt sky sleep slice slide slip slow small smart smell smile smoke
    smooth snake snow soap soccer social sock soft soil soldier solid solve some song soon sorry sort sound soup south
    space spare speak special speed spell spend spice spider spin spirit spoon sport spot spread spring square
    squirrel stable stage stairs stamp stand star start state station stay steady steam steel stem step stick still
    stone stop store storm story strange straw stream street strike string strong student study sudden sugar suggest
    suit summer sun sunday supper supply support sure surface surprise swan sweater sweet swim swing switch symbol
    system table tail take tale talk tall tape target task taste taxi tea teach team tell temple ten tennis tent term
    test thank theater theory thick thin thing think third thirty thread three throat throne through throw thumb
    thunder thursday ticket tide tie tiger tight timber time tiny title toast today together tomato tomorrow tone
    tongue tool tooth top topic torch total touch tour toward towel tower town toy track trade traffic trail train
    travel treasure treat tree triangle trick trip trouble truck true trumpet trust truth try tube tuesday tulip
    tunnel turkey turn turtle twelve twenty twice twin two type umbrella uncle under union unique unit until upper
    urban use useful usual valley value vapor various vase velvet very vessel victory video view village violet violin
    visit voice volcano voyage wage wagon wait wake walk wall walnut want warm wash watch water wave way weak wealth
    wear weather web wedding wednesday week weight welcome well west whale wheat wheel when whether whisper white
    whole wide wild will willow win wind window wine wing winter wire wise wish within without wolf wonder wood wool
    word work world worry worth wrap wreath write wrong yard year yellow yesterday yet yogurt young youth zebra zero
    zone zoo
    """.split()
)


def split_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(training words, held-out words), always the same."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(WORDS))
    held_out = set(order[: round(HELD_OUT_SHARE * len(WORDS))].tolist())
    train = tuple(word for index, word in enumerate(WORDS) if index not in held_out)
    return train, tuple(word for index, word in enumerate(WORDS) if index in held_out)
